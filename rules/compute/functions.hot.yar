/*
    Functions by the code that runs. Files whose name ends in .hot.yar are matched against the pages
    where a process's samples lie and the tables that those pages address, and against nothing else:
    round constants and rotations are in every collection of ciphers, and in memory that is only
    kept they would be false alarms.

    Words such as rol32.7; stand for instructions (node/children/machine_code.py): a rotation of 32
    bits to the left by 7, on any machine, in any register, by one instruction or two shifts. The
    byte before them is in no text, so that a text that quotes them, as this one, is no match.
*/

rule SHA256_Rounds
{
    meta:
        description = "SHA-256: its instructions, or its round constants and rotations"
        reference = "https://doi.org/10.6028/NIST.FIPS.180-4"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        // Miners fold the first and last into what they precompute; of tables for eight hashes at once
        // only the first show, and of those that are addressed from their middle only the last.
        $k0 = { 98 2F 8A 42 }
        $k1 = { 91 44 37 71 }
        $k2 = { CF FB C0 B5 }
        $k3 = { A5 DB B5 E9 }
        $k4 = { 5B C2 56 39 }
        $k5 = { F1 11 F1 59 }
        $k6 = { A4 82 3F 92 }
        $k7 = { D5 5E 1C AB }
        $k16 = { C1 69 9B E4 }
        $k18 = { C6 9D C1 0F }
        $k20 = { 6F 2C E9 2D }
        $k22 = { DC A9 B0 5C }
        $k24 = { 52 51 3E 98 }
        $k26 = { C8 27 03 B0 }
        $k28 = { F3 0B E0 C6 }
        $k30 = { 51 63 CA 06 }
        $k32 = { 85 0A B7 27 }
        $k34 = { FC 6D 2C 4D }
        $k36 = { 54 73 0A 65 }
        $k38 = { 2E C9 C2 81 }
        $k40 = { A1 E8 BF A2 }
        $k44 = { 19 E8 92 D1 }
        $k48 = { 16 C1 A4 19 }
        $k52 = { B3 0C 1C 39 }
        $k56 = { EE 82 8F 74 }
        $k60 = { FA FF BE 90 }
        $instruction = "\x1fsha256;"
        $upper0 = "\x1frol32.30;"
        $upper1 = "\x1frol32.26;"
    condition:
        8 of ($k*) and (#instruction >= 4 or ($upper0 and $upper1))
}

rule SHA512_Rounds
{
    meta:
        description = "SHA-512 and SHA-384: their round constants and rotations"
        reference = "https://doi.org/10.6028/NIST.FIPS.180-4"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        // Tables with each number twice or four times, or addressed from their middle, show a part.
        $k0 = { 22 AE 28 D7 98 2F 8A 42 }
        $k1 = { CD 65 EF 23 91 44 37 71 }
        $k2 = { 2F 3B 4D EC CF FB C0 B5 }
        $k3 = { BC DB 89 81 A5 DB B5 E9 }
        $k4 = { 38 B5 48 F3 5B C2 56 39 }
        $k5 = { 19 D0 05 B6 F1 11 F1 59 }
        $k6 = { 9B 4F 19 AF A4 82 3F 92 }
        $k8 = { 42 02 03 A3 98 AA 07 D8 }
        $k10 = { 8C B2 E4 4E BE 85 31 24 }
        $k12 = { 6F 89 7B F2 74 5D BE 72 }
        $k14 = { 35 12 C7 25 A7 06 DC 9B }
        $k16 = { D2 4A F1 9E C1 69 9B E4 }
        $k18 = { B5 D5 8C 8B C6 9D C1 0F }
        $k20 = { 75 02 2B 59 6F 2C E9 2D }
        $k22 = { D4 FB 41 BD DC A9 B0 5C }
        $k24 = { AB DF 66 EE 52 51 3E 98 }
        $k26 = { 3F 21 FB 98 C8 27 03 B0 }
        $k28 = { C2 8F A8 3D F3 0B E0 C6 }
        $k30 = { 6F 82 03 E0 51 63 CA 06 }
        $instruction = "\x1fsha512;"
        $upper0 = "\x1frol64.36;"
        $upper1 = "\x1frol64.50;"
    condition:
        5 of ($k*) and (#instruction >= 4 or ($upper0 and $upper1))
}

rule Keccak_Rounds
{
    meta:
        description = "Keccak-f[1600]: SHA-3, SHAKE, and the Keccak-256 of coins"
        reference = "https://doi.org/10.6028/NIST.FIPS.202"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $c2 = { 8A 80 00 00 00 00 00 80 }
        $c3 = { 00 80 00 80 00 00 00 80 }
        $c4 = { 8B 80 00 00 00 00 00 00 }
        $c5 = { 01 00 00 80 00 00 00 00 }
        $c6 = { 81 80 00 80 00 00 00 80 }
        $c7 = { 09 80 00 00 00 00 00 80 }
        $c13 = { 8B 00 00 00 00 00 00 80 }
        $c14 = { 89 80 00 00 00 00 00 80 }
        $c15 = { 03 80 00 00 00 00 00 80 }
    condition:
        5 of them
}

rule BLAKE2b_Rounds
{
    meta:
        description = "Rounds of BLAKE2b: the hash itself, and what is built from its rounds, such as Lyra2"
        reference = "https://www.rfc-editor.org/rfc/rfc7693"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $r24 = "\x1frol64.40;"
        $r16 = "\x1frol64.48;"
        $r63 = "\x1frol64.1;"
        // The same by a shuffle of bytes
        $shuffle24 = { 03 04 05 06 07 00 01 02 0B 0C 0D 0E 0F 08 09 0A }
        $shuffle16 = { 02 03 04 05 06 07 00 01 0A 0B 0C 0D 0E 0F 08 09 }
        $product = "\x1fwide32;"
        $products = "\x1fmul64;"
    condition:
        #r63 >= 2 and (#r24 >= 2 or $shuffle24) and (#r16 >= 2 or $shuffle16)
        and #product < 4 and #products < 16
}

rule Argon2_Rounds
{
    meta:
        description = "Argon2: rounds of BLAKE2b with products of 32 bits in the place of sums"
        reference = "https://www.rfc-editor.org/rfc/rfc9106"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $r24 = "\x1frol64.40;"
        $r16 = "\x1frol64.48;"
        $r63 = "\x1frol64.1;"
        $shuffle24 = { 03 04 05 06 07 00 01 02 0B 0C 0D 0E 0F 08 09 0A }
        $shuffle16 = { 02 03 04 05 06 07 00 01 0A 0B 0C 0D 0E 0F 08 09 }
        $product = "\x1fwide32;"
        $products = "\x1fmul64;"
    condition:
        #r63 >= 2 and (#r24 >= 2 or $shuffle24) and (#r16 >= 2 or $shuffle16)
        and (#product >= 4 or #products >= 16)
}

rule BLAKE2s_Rounds
{
    meta:
        description = "Rounds of BLAKE-256, BLAKE2s and BLAKE3"
        reference = "https://www.rfc-editor.org/rfc/rfc7693"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $r12 = "\x1frol32.20;"
        $r7 = "\x1frol32.25;"
        $r16 = "\x1frol32.16;"
        $r8 = "\x1frol32.24;"
        $shuffle16 = { 02 03 00 01 06 07 04 05 0A 0B 08 09 0E 0F 0C 0D }
        $shuffle8 = { 01 02 03 00 05 06 07 04 09 0A 0B 08 0D 0E 0F 0C }
    condition:
        #r12 >= 2 and #r7 >= 2 and (#r16 >= 2 or $shuffle16) and (#r8 >= 2 or $shuffle8)
}

rule ChaCha_Rounds
{
    meta:
        description = "Rounds of ChaCha"
        reference = "https://www.rfc-editor.org/rfc/rfc8439"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $l16 = "\x1frol32.16;"
        $l12 = "\x1frol32.12;"
        $l8 = "\x1frol32.8;"
        $l7 = "\x1frol32.7;"
        $shuffle16 = { 02 03 00 01 06 07 04 05 0A 0B 08 09 0E 0F 0C 0D }
        $shuffle8 = { 03 00 01 02 07 04 05 06 0B 08 09 0A 0F 0C 0D 0E }
    condition:
        #l12 >= 2 and #l7 >= 2 and (#l16 >= 2 or $shuffle16) and (#l8 >= 2 or $shuffle8)
}

rule Salsa20_Rounds
{
    meta:
        description = "Rounds of Salsa20: the core of scrypt, and the last step of yescrypt and yespower"
        reference = "https://www.rfc-editor.org/rfc/rfc7914"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $l7 = "\x1frol32.7;"
        $l9 = "\x1frol32.9;"
        $l13 = "\x1frol32.13;"
        $l18 = "\x1frol32.18;"
    condition:
        #l7 >= 2 and #l9 >= 2 and #l13 >= 2 and #l18 >= 2
}

rule Yescrypt_Mixing
{
    meta:
        description = "yescrypt and yespower 0.5: products, with tables of 4 KiB looked up by a mask"
        reference = "https://www.openwall.com/yescrypt/"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $product = "\x1fwide32;"
        $products = "\x1fmul64;"
        // ((1 << 8) - 1) * 16, in both halves
        $mask = { F0 0F 00 00 F0 0F 00 00 }
        // The same in two instructions of x86
        $half = { ( 25 | 81 E? ) F0 0F 00 00 }
    condition:
        ($mask and ($product or #products >= 2)) or (#half >= 4 and (#product >= 4 or #products >= 8))
}

rule Yespower_Mixing
{
    meta:
        description = "yespower 1.0: products, with tables of 32 KiB looked up by a mask"
        reference = "https://www.openwall.com/yespower/"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $product = "\x1fwide32;"
        $products = "\x1fmul64;"
        // ((1 << 11) - 1) * 16, in both halves
        $mask = { F0 7F 00 00 F0 7F 00 00 }
        $half = { ( 25 | 81 E? ) F0 7F 00 00 }
    condition:
        ($mask and ($product or #products >= 2)) or (#half >= 4 and (#product >= 4 or #products >= 8))
}

rule NeoScrypt_Rounds
{
    meta:
        description = "NeoScrypt: Salsa20 and ChaCha20 together"
        reference = "https://phoenixcoin.org/archive/neoscrypt_v1.pdf"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $l7 = "\x1frol32.7;"
        $l8 = "\x1frol32.8;"
        $l9 = "\x1frol32.9;"
        $l12 = "\x1frol32.12;"
        $l13 = "\x1frol32.13;"
        $l16 = "\x1frol32.16;"
        $l18 = "\x1frol32.18;"
    condition:
        #l7 >= 2 and #l8 >= 2 and #l9 >= 2 and #l12 >= 2 and #l13 >= 2 and #l16 >= 2 and #l18 >= 2
}

rule AES_Rounds
{
    meta:
        description = "AES: eight of its instructions, or its tables"
        reference = "https://doi.org/10.6028/NIST.FIPS.197-upd1"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        $instruction = "\x1faes;"
        $little = { A5 63 63 C6 84 7C 7C F8 99 77 77 EE }
        $big = { C6 63 63 A5 F8 7C 7C 84 EE 77 77 99 }
    condition:
        #instruction >= 8 or $little or $big
}

rule Haraka_Rounds
{
    meta:
        description = "Haraka: AES with its round constants"
        reference = "https://eprint.iacr.org/2016/098.pdf"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $rc0 = { 9D 7B 81 75 F0 FE C5 B2 0A C0 20 E6 4C 70 84 06 }
        $rc1 = { 17 F7 08 2F A4 6B 0F 64 6B A0 F3 88 E1 B4 66 8B }
    condition:
        all of them
}

rule VerusHash_Loop
{
    meta:
        description = "VerusHash 2: AES, products without carry, and rounded products, in one loop"
        reference = "https://docs.verus.io/overview/technology/"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $aes = "\x1faes;"
        $carryless = "\x1fclmul;"
        $rounded = "\x1fmulhrs;"
    condition:
        #aes >= 2 and #carryless >= 2 and $rounded
}

rule CryptoNight_Loop
{
    meta:
        description = "CryptoNight: AES and a product of 128 bits, at places in a scratchpad of 128 KiB to 4 MiB"
        reference = "https://cryptonote.org/cns/cns008.txt"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        // (size - 1) with the last four bits clear
        $mask = { F0 FF ( 01 | 03 | 07 | 0F | 1F | 3F ) 00 }
        $aes = "\x1faes;"
        $table = { A5 63 63 C6 84 7C 7C F8 99 77 77 EE }
        $product = "\x1fwide64;"
    condition:
        $mask and $product and ($aes or $table)
}

rule Ethash_Items
{
    meta:
        description = "Ethash and its kin: Keccak and the FNV prime, to make items of the data set"
        reference = "https://ethereum.org/en/developers/docs/consensus-mechanisms/pow/mining-algorithms/ethash/"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $prime = { 93 01 00 01 }
        $c2 = { 8A 80 00 00 00 00 00 80 }
        $c3 = { 00 80 00 80 00 00 00 80 }
        $c7 = { 09 80 00 00 00 00 00 80 }
        $c13 = { 8B 00 00 00 00 00 00 80 }
        $c14 = { 89 80 00 00 00 00 00 80 }
    condition:
        $prime and 4 of ($c*)
}

rule ProgPoW_Loop
{
    meta:
        description = "ProgPoW, as KawPow and others have it: the generator KISS99, and the FNV prime"
        reference = "https://eips.ethereum.org/EIPS/eip-1057"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        $prime = { 93 01 00 01 }
        // 36969, 18000, 69069
        $kiss_z = { 69 90 00 00 }
        $kiss_w = { 50 46 00 00 }
        $kiss_cong = { CD 0D 01 00 }
    condition:
        all of them
}

// Only numbers, and engines put numbers that an outsider names into what they generate.
rule RandomX_Items : files
{
    meta:
        description = "RandomX: numbers that items of its data set begin with"
        reference = "https://github.com/tevador/RandomX/blob/master/doc/specs.md"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        // 7.3, superscalarAdd1 to 7
        $add1 = { FC A1 F5 59 8A 97 0A 81 }
        $add2 = { 46 D8 C2 38 DF 99 70 A7 }
        $add3 = { 5C 49 22 BF 1C B9 26 81 }
        $add4 = { 62 8A 9F 17 97 25 4D 49 }
        $add5 = { 0C EC AA CE B9 EF 37 92 }
        $add6 = { 78 2D E6 6C 74 56 2A 2F }
        $add7 = { 4E E5 2C B6 F7 3B 85 84 }
    condition:
        3 of them
}

rule RandomX_Interpreter
{
    meta:
        description = "RandomX without generated code: its operations on floats, in one function"
        reference = "https://github.com/tevador/RandomX/blob/master/doc/specs.md"
        date = "2026-12-01"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        // x86-64, by SSE2 or AVX. Two integers to two floats: FADD_M, FSUB_M, FDIV_M (5.3)
        $convert = { ( F3 0F E6 | F3 ( 41 | 44 | 45 ) 0F E6 | C5 ( 7A | FA ) E6 | C4 ( 41 | 61 | C1 ) 7A E6 ) }
        // Pairs divided, FDIV_M, and roots of a pair, FSQRT_R
        $divide = { ( 66 0F 5E | 66 ( 41 | 44 | 45 ) 0F 5E | C5 ( ?1 | ?9 ) 5E ) }
        $root = { ( 66 0F 51 | 66 ( 41 | 44 | 45 ) 0F 51 | C5 ( 79 | F9 ) 51 ) }
    condition:
        for any i in (1..#root) : (
            #root in (@root[i] - 512 .. @root[i] + 512) == 1
            and #divide in (@root[i] - 512 .. @root[i] + 512) == 1
            and #convert in (@root[i] - 512 .. @root[i] + 512) >= 3
        )
}

rule Coin_Hash
{
    meta:
        description = "A hash function that X11 and its kin chain, mostly a candidate that lost the SHA-3 contest"
        reference = "https://csrc.nist.gov/projects/hash-functions/sha-3-project"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "general"
    strings:
        // Made from the S-box of AES or their own: tables of Groestl, Fugue, Whirlpool
        $groestl = { ( C6 32 F4 A5 F4 97 A5 C6 | 00 0E 0B 07 04 01 0F 0C ) }
        $fugue = { 97 32 63 63 EB 6F 7C 7C }
        $whirlpool = { ( 18 18 60 18 C0 78 30 D8 | D8 30 78 C0 18 60 18 18 ) }
        // Constants of the rounds: of some, for code of many pages is read in part
        $jh = { ( 72 D5 DE A2 DF 15 F8 67 | 0D 55 0A A5 4A F8 A4 C0 | 32 59 5B A1 8D DD 19 D3 | B5 1D 3E A6 AF F2 C9 08 | 35 B4 98 31 DB 41 15 70 ) }
        $luffa = { ( A6 94 39 30 99 52 E6 C0 | A6 94 39 30 18 78 33 E0 | A6 94 39 30 ED 10 DE B6 | ED 10 DE B6 A6 94 39 30 | 18 78 33 E0 3D 5F 68 01 | D2 D9 20 FC A5 AF 13 B2 | E3 E9 D2 F0 FA D7 11 AC ) }
        $hamsi = { 9C 63 F9 CA C0 F9 F0 0F F0 0F 9C 63 C0 F9 F9 CA }
        $bmw = { A5 AA AA AA AA AA AA 5A }
        $blake512 = { D3 08 A3 85 88 6A 3F 24 }
        // Parity of the key; powers of 41 modulo 257, and of its inverse
        $skein = { 22 1A FC A9 DA 1B D1 1B }
        $simd = { ( 01 00 00 00 29 00 00 00 8B 00 00 00 2D 00 00 00 | 3C 00 00 00 93 00 00 00 74 00 00 00 82 00 00 00 | 5F 00 41 00 3A 00 CA 00 ) }
    condition:
        any of them
}

rule Hash_Chain
{
    meta:
        description = "Several of the hash functions that X11, X16R and others chain, one of them for coins alone"
        reference = "https://csrc.nist.gov/projects/hash-functions/sha-3-project"
        date = "2026-11-29"
        license = "Apache-2.0"
        confidence = "coin"
    strings:
        // Run for coins alone
        $coin_groestl = { ( C6 32 F4 A5 F4 97 A5 C6 | 00 0E 0B 07 04 01 0F 0C ) }
        $coin_fugue = { 97 32 63 63 EB 6F 7C 7C }
        $coin_jh = { ( 72 D5 DE A2 DF 15 F8 67 | 0D 55 0A A5 4A F8 A4 C0 | 32 59 5B A1 8D DD 19 D3 | B5 1D 3E A6 AF F2 C9 08 | 35 B4 98 31 DB 41 15 70 ) }
        $coin_luffa = { ( A6 94 39 30 99 52 E6 C0 | A6 94 39 30 18 78 33 E0 | A6 94 39 30 ED 10 DE B6 | ED 10 DE B6 A6 94 39 30 | 18 78 33 E0 3D 5F 68 01 | D2 D9 20 FC A5 AF 13 B2 | E3 E9 D2 F0 FA D7 11 AC ) }
        $coin_hamsi = { 9C 63 F9 CA C0 F9 F0 0F F0 0F 9C 63 C0 F9 F9 CA }
        $coin_bmw = { A5 AA AA AA AA AA AA 5A }
        $coin_simd = { ( 01 00 00 00 29 00 00 00 8B 00 00 00 2D 00 00 00 | 3C 00 00 00 93 00 00 00 74 00 00 00 82 00 00 00 | 5F 00 41 00 3A 00 CA 00 ) }
        // Run for more
        $whirlpool = { ( 18 18 60 18 C0 78 30 D8 | D8 30 78 C0 18 60 18 18 ) }
        $blake512 = { D3 08 A3 85 88 6A 3F 24 }
        $skein = { 22 1A FC A9 DA 1B D1 1B }
        $keccak = { 8A 80 00 00 00 00 00 80 }
        // CubeHash has no constants; MD5 and RIPEMD-160 turn so 16 times
        $turn7 = "\x1frol32.7;"
        $turn11 = "\x1frol32.11;"
    condition:
        2 of ($coin_*) or (any of ($coin_*) and #turn7 >= 32 and #turn11 >= 32)
        or (any of ($coin_*) and 2 of ($whirlpool, $blake512, $skein, $keccak))
}
