/*
    Hash functions that only coins use, by constants that cannot change without changing the hash.
    A node or a wallet of such a coin holds them too, so they say less than what a miner says of
    itself. Patterns are bytes as they lie in memory: a text that quotes them is no match.
*/

rule CryptoNight_Constants
{
    meta:
        description = "Initial values of JH-256 and Skein-512-256: CryptoNight ends with either"
        reference = "https://cryptonote.org/cns/cns008.txt"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        $jh256 = { EB 98 A3 41 2C 20 D3 EB 92 CD BE 7B 9C B2 45 C1 }
        $skein512_256 = { 13 3E DB 2F A1 44 D0 CC EB A9 79 1A 30 90 35 E8 }
    condition:
        all of them
}

rule HashChain_Constants
{
    meta:
        description = "Initial values of candidates that lost the SHA-3 contest: X11, X16R and others chain them"
        reference = "https://csrc.nist.gov/projects/hash-functions/sha-3-project"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        $cubehash512 = { 61 2A EA 2A D4 94 F4 50 8B 8B 53 2D 3E D8 67 41 }
        $jh512 = { 6F D1 4B 96 3E 00 AA 17 63 6A 2E 05 7A 15 D5 43 }
        $luffa512 = { 69 1E 25 6D E0 51 B0 44 B4 6F AA 4E 65 84 F7 DB }
        $shavite512 = { D8 CD FC 72 27 47 CA 79 7B 07 8A 12 EC 5A D5 40 }
        $simd512 = { 95 6B A1 0B AD 99 F9 72 AE C2 EC 9F FC 64 32 BA }
        $skein512 = { CE 51 9C 74 FF AD 03 49 03 DF 46 97 39 DE 95 0D }
    condition:
        4 of them
}

rule KawPow_Constants
{
    meta:
        description = "Words that KawPow and its kin put into Keccak-f[800], one character each"
        reference = "https://github.com/RavenCommunity/kawpowminer"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        // rAVENCOIN, EVRMORE-, MEOWCOIN
        $kawpow = { 72 00 00 00 41 00 00 00 56 00 00 00 45 00 00 00 4E 00 00 00 43 00 00 00 4F 00 00 00 49 00 00 00 4E }
        $evrprogpow = { 45 00 00 00 56 00 00 00 52 00 00 00 4D 00 00 00 4F 00 00 00 52 00 00 00 45 00 00 00 2D }
        $meowpow = { 4D 00 00 00 45 00 00 00 4F 00 00 00 57 00 00 00 43 00 00 00 4F 00 00 00 49 00 00 00 4E }
    condition:
        any of them
}

rule Equihash_Personalisation
{
    meta:
        description = "BLAKE2b personalisation of Equihash: its name, then n and k"
        reference = "https://zips.z.cash/protocol/protocol.pdf"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        // ZcashPoW, BgoldPoW, ZelProof, Beam-PoW with (200, 9), (144, 5), (125, 4), (150, 5)
        $zcash = { 5A 63 61 73 68 50 6F 57 ( C8 00 00 00 09 | 90 00 00 00 05 | C0 00 00 00 07 ) 00 00 00 }
        $gold = { 42 67 6F 6C 64 50 6F 57 90 00 00 00 05 00 00 00 }
        $flux = { 5A 65 6C 50 72 6F 6F 66 ( 7D 00 00 00 04 | 90 00 00 00 05 ) 00 00 00 }
        $beam = { 42 65 61 6D 2D 50 6F 57 96 00 00 00 ( 03 | 05 ) 00 00 00 }
    condition:
        any of them
}

rule HeavyHash_Constants
{
    meta:
        description = "cSHAKE256 as kHeavyHash (Kaspa) begins it: its state, or the block that leads to it"
        reference = "https://github.com/kaspanet/rusty-kaspa/tree/master/crypto/hashes"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        // By NIST SP 800-185 for the names ProofOfWorkHash and HeavyHash
        $work_state = { 3D D8 F6 A1 0D FF 3C 11 3C 7E 02 B7 55 88 BF 29 }
        $heavy_state = { 09 85 24 B2 52 4C D7 3A 16 42 9F 2F 0E 9B 62 79 }
        $work_block = { 01 88 01 00 01 78 50 72 6F 6F 66 4F 66 57 6F 72 6B 48 61 73 68 00 }
        $heavy_block = { 01 88 01 00 01 48 48 65 61 76 79 48 61 73 68 00 }
    condition:
        any of them
}

rule VerusHash_Constants
{
    meta:
        description = "Round constants of Haraka, in a program that names VerusHash"
        reference = "https://eprint.iacr.org/2016/098.pdf"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "algorithm"
    strings:
        // SPHINCS+ has variants with Haraka, so its constants alone say nothing
        $haraka0 = { 9D 7B 81 75 F0 FE C5 B2 0A C0 20 E6 4C 70 84 06 }
        $haraka1 = { 17 F7 08 2F A4 6B 0F 64 6B A0 F3 88 E1 B4 66 8B }
        $name = "verushash" ascii nocase
    condition:
        all of them
}
