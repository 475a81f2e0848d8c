/*
    What miners say: formats of their messages as a compiler lays them down. C's source writes the
    quotes and the colours otherwise, and a log or a connection has values where these have
    conversions (%s), so that neither an editor nor a terminal nor a capture is a match.
*/

rule XMRig_Messages
{
    meta:
        description = "Formats of XMRig's and its forks' log lines, with the colours compiled in"
        reference = "https://github.com/xmrig/xmrig"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        $accepted = "accepted\x1b[0m (%l"
        $rejected = "rejected\x1b[0m (%l"
        $job = "new job\x1b[0m from \x1b[1;37m%s:%d\x1b[0m diff "
        $no_pools = "%s \x1b[0;31mno active pools, stop mining\x1b[0m\x00"
        $donate = "%s \x1b[1;37mdev donate started\x1b[0m\x00"
        $speed = "speed\x1b[0m 10s/60s/15m \x1b[1;36m%s"
    condition:
        2 of them
}

rule Stratum_Templates
{
    meta:
        description = "Requests of a miner to its pool, as C formats: cpuminer, cgminer and their many forks"
        reference = "https://en.bitcoin.it/wiki/Stratum_mining_protocol"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        $authorize = "\"method\": \"mining.authorize\", \"params\": [\"%s\""
        $submit = "\"method\": \"mining.submit\", \"params\": [\"%s\""
        $submit_last = /"params": \["%s"(, "%s"){2,5}\], "id": ?%[du], "method": "mining\.submit"/
        $subscribe = /"method": "mining\.subscribe", "params": \["(%s|[a-z]{1,12}miner[\w-]{0,16}\/[\w.]{1,16})"/
        $login = "\"method\": \"login\", \"params\": {\"login\": \"%s\", \"pass\": \"%s\""
        $result = "\"method\": \"submit\", \"params\": {\"id\": \"%s\", \"job_id\": \"%s\", \"nonce\": \"%s\""
        $ethereum = "\"method\": \"eth_submitWork\", \"params\": [\"0x%"
    condition:
        2 of them
}

rule Stratum_Words
{
    meta:
        description = "The methods of the mining protocol, each a string of its own: miners, but pools and proxies too"
        reference = "https://en.bitcoin.it/wiki/Stratum_mining_protocol"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        // mining.subscribe, .authorize, .submit, .notify, each between two zero bytes
        $subscribe = { 00 6D 69 6E 69 6E 67 2E 73 75 62 73 63 72 69 62 65 00 }
        $authorize = { 00 6D 69 6E 69 6E 67 2E 61 75 74 68 6F 72 69 7A 65 00 }
        $submit = { 00 6D 69 6E 69 6E 67 2E 73 75 62 6D 69 74 00 }
        $notify = { 00 6D 69 6E 69 6E 67 2E 6E 6F 74 69 66 79 00 }
    condition:
        3 of them
}

rule Yespower_Personalisations
{
    meta:
        description = "Personalisations of yespower for several coins: a node has its own, a miner has many"
        reference = "https://www.openwall.com/yespower/"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        $cpuchain = "CPUpower: The number of CPU working or available for proof-of-work mining\x00"
        $litb = "LITBpower: The number of LITB working or available for proof-of-work mini\x00"
        $sugarchain = "Satoshi Nakamoto 31/Oct/2008 Proof-of-work is essentially one-CPU-one-vote\x00"
        $magpiecoin = "Magpies are birds of the Corvidae family.\x00"
        $advancement = "Let the quest begin\x00"
        $microbitcoin = "Now I am become Death, the destroyer of worlds\x00"
        $iots = "Iots is committed to the development of IOT\x00"
    condition:
        2 of them
}

rule Ethash_Kernels
{
    meta:
        description = "Ethash search and data set kernels, compiled for CUDA"
        reference = "https://github.com/ethereum-mining/ethminer"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        // ethash_search, ethash_calculate_dag_item, as the Itanium C++ ABI spells them
        $search = { ( 00 | 20 ) 5F 5A 31 33 65 74 68 61 73 68 5F 73 65 61 72 63 68 }
        $data_set = { ( 00 | 20 ) 5F 5A 32 35 65 74 68 61 73 68 5F 63 61 6C 63 75 6C 61 74 65 5F 64 61 67 5F 69 74 65 6D }
    condition:
        any of them
}

rule ProgPoW_Kernels
{
    meta:
        description = "ProgPoW's kernels, which its miners write as text and compile while they run"
        reference = "https://eips.ethereum.org/EIPS/eip-1057"
        date = "2026-11-30"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        // "// Inner loop for prog_seed 1234567", as generated, and as the constant it is made from;
        // source code has a quotation mark behind it.
        $generated = /\/\/ Inner loop for prog_seed [0-9]{1,20}\n/
        $template = { 2F 2F 20 49 6E 6E 65 72 20 6C 6F 6F 70 20 66 6F 72 20 70 72 6F 67 5F 73 65 65 64 20 00 }
    condition:
        any of them
}
