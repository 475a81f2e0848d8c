/*
    RandomX (Monero and others): constants and code that cannot change without changing the hash.
    They survive renaming, stripping and packing. Several are asked for: what quotes one is no match,
    nor is this file.
*/

rule RandomX_Constants
{
    meta:
        description = "Constants of RandomX: keys and states of its AES functions, salt, data set"
        reference = "https://github.com/tevador/RandomX/blob/master/doc/specs.md"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        // Appendix A, RANDOMX_ARGON_SALT
        $salt = { 52 61 6E 64 6F 6D 58 03 }
        // 3.2, AesGenerator1R: keys
        $generator1_key0 = { 53 A5 AC 6D 09 66 71 62 2B 55 B5 DB 17 49 F4 B4 }
        $generator1_key1 = { 07 AF 7C 6D 0D 71 6A 84 78 D3 25 17 4E DC A1 0D }
        $generator1_key2 = { F1 62 12 3F C6 7E 94 9F 4F 79 C0 F4 45 E3 20 3E }
        $generator1_key3 = { 35 81 EF 6A 7C 31 BA B1 88 4C 31 16 54 91 16 49 }
        // 3.4, AesHash1R: initial state, additional keys
        $hash_state0 = { 0D 2C B5 92 DE 56 A8 9F 47 DB 82 CC AD 3A 98 D7 }
        $hash_state1 = { 6E 99 8D 33 98 B7 C7 15 5A 12 9E F5 57 80 E7 AC }
        $hash_state2 = { 17 00 77 6A D0 C7 62 AE 6B 50 79 50 E4 7C A0 E8 }
        $hash_state3 = { 0C 24 0A 63 8D 82 AD 07 05 00 A1 79 48 49 99 7E }
        $hash_key0 = { 89 83 FA F6 9F 94 24 8B BF 56 DC 90 01 02 89 06 }
        $hash_key1 = { D1 63 B2 61 3C E0 F4 51 C6 43 10 EE 9B F9 18 ED }
        // 7.3, data set items; the multiplier is Knuth's and found everywhere
        $item_add1 = { FC A1 F5 59 8A 97 0A 81 }
        $item_add2 = { 46 D8 C2 38 DF 99 70 A7 }
    condition:
        // A compiler may lay down three numbers of 8 bytes that a query or a script has named.
        3 of them and any of ($generator1_*, $hash_*)
}

rule RandomX_Code
{
    meta:
        description = "x86-64 code of RandomX programs: CFROUND sets the rounding mode, denormals off"
        reference = "https://github.com/tevador/RandomX/blob/master/doc/specs.md"
        date = "2026-11-24"
        license = "Apache-2.0"
        confidence = "miner"
    strings:
        // and eax, 0x6000; or eax, 0x9FC0; its store; ldmxcsr [rsp…]
        $computed = { 25 00 60 00 00 0D C0 9F 00 00 [1-12] 0F AE ( 14 24 | 54 24 ) }
        // The mode's MXCSR is taken from a table on the stack: rotated right, or by BMI2's rorx;
        // and eax, 12; on AMD a comparison with the mode in force; ldmxcsr [rsp + rax]
        $rotated = { 49 8B ( C0 | C1 | C2 | C3 | C4 | C5 | C6 | C7 ) 48 C1 C8 ?? 83 E0 0C [0-6] 0F AE 14 04 }
        $rorx = { C4 C3 FB F0 ?? ?? 83 E0 0C [0-6] 0F AE 14 04 }
    condition:
        any of them
}
