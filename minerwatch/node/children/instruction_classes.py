"""Classes of instructions, by their names as capstone has them.

Part of code_classifier.py. Without ``re``, which takes a third of that child's start to import.
"""

from __future__ import annotations

(XOR, ROTATE, MULTIPLY, VECTOR, MEDIA, CIPHER, FLOAT, PAIRS, ROUNDING, BRANCH, OTHER) = range(11)
CLASSES = 11
"""PAIRS: conversions of two integers to two floats. They are rare, and RandomX makes one for each
number that it reads (its specification, 4.3.1 and 5.3.1)."""


# x86-64 (Intel SDM volume 2).

_X86_NAMES = {
    **dict.fromkeys(("xor", "pxor", "vpxor", "vpxord", "vpxorq"), XOR),
    **dict.fromkeys(("xorps", "xorpd", "vxorps", "vxorpd"), XOR),
    **dict.fromkeys(("ldmxcsr", "vldmxcsr", "fldcw"), ROUNDING),
    **dict.fromkeys(("cvtdq2pd", "vcvtdq2pd", "cvtpi2pd"), PAIRS),
    **dict.fromkeys(("rol", "ror", "rorx", "rcl", "rcr", "shld", "shrd"), ROTATE),
    **dict.fromkeys(("mul", "imul", "mulx"), MULTIPLY),
}
"""Grows by the names that were met: a few hundred."""
_X86_STARTS = (
    (("vprol", "vpror"), ROTATE),
    (("aes", "vaes", "sha1", "sha256", "sha512", "vsha512", "vsm3", "vsm4"), CIPHER),
    (("j", "call", "ret", "loop", "syscall", "int", "bnd", "notrack"), BRANCH),
)
# After "p" or "vp":
_X86_VECTORS = frozenset(
    (
        *("addd", "addq", "subd", "subq", "or", "ord", "orq", "muludq", "alignr"),
        *("and", "andd", "andq", "andn", "andnd", "andnq", "ternlogd", "ternlogq"),
    )
)
_X86_VECTOR_STARTS = ("slld", "sllq", "sllv", "srld", "srlq", "srlv", "srad", "srav", "madd52")
_X86_MEDIA_STARTS = (
    *("shuf", "unpck", "avg", "sad", "madd", "max", "min", "abs", "hadd", "hsub", "sign", "mulh"),
    *("mull", "mulr", "blend", "addb", "addw", "addu", "adds", "subb", "subw", "subu", "subs"),
    *("cmp", "movmskb", "sllw", "srlw", "sraw", "ins", "ext", "movsx", "movzx", "perm"),
    *("broadcast", "test"),
)
# With or without "v":
_X86_OTHER_MEDIA_STARTS = ("pack", "mpsadbw", "dbpsadbw", "movmsk")
_X86_FLOAT_STARTS = (
    *("add", "sub", "mul", "div", "sqrt", "max", "min", "rcp", "rsqrt", "dp", "cmp", "ucomi"),
    *("comi", "hadd", "hsub", "round", "fm", "fnm"),
)
_X86_FLOAT_ENDS = ("ss", "sd", "ps", "pd")
_X86_NO_FLOATS = ("fence", "fldcw", "fxsave", "fxrstor")


def x86_class(mnemonic: str, operands: str) -> int:
    """Return the class of one instruction."""
    kind = _X86_NAMES.get(mnemonic)
    if kind is None:
        name = mnemonic.rpartition(" ")[2]  # without lock, rep, bnd
        kind = _X86_NAMES[mnemonic] = _X86_NAMES.get(name, _x86_class_by_start(name))
    if kind == XOR:
        return OTHER if _is_one_register(operands) else XOR
    if "-sae}" in operands and not operands.endswith("{sae}"):
        return ROUNDING
    return kind


def _is_one_register(operands: str) -> bool:
    """Return True if all operands are the same: the result is zero, and nothing is mixed."""
    first, _, rest = operands.partition(", ")
    return all(each == first for each in rest.split(", "))


def _x86_class_by_start(name: str) -> int:
    for starts, kind in _X86_STARTS:
        if name.startswith(starts):
            return kind
    plain = name.removeprefix("v")
    if plain.startswith("p"):
        if plain[1:] in _X86_VECTORS or plain.startswith(_X86_VECTOR_STARTS, 1):
            return VECTOR
        if plain.startswith(_X86_MEDIA_STARTS, 1):
            return MEDIA
    if plain.startswith(_X86_OTHER_MEDIA_STARTS):
        return MEDIA
    is_scalar_or_packed = plain.startswith(_X86_FLOAT_STARTS) and plain.endswith(_X86_FLOAT_ENDS)
    if is_scalar_or_packed or plain.startswith("cvt") or _is_x87_or_fused(name):
        return FLOAT
    return OTHER


def _is_x87_or_fused(name: str) -> bool:
    if name.startswith("vf"):
        return "madd" in name or "msub" in name
    return name.startswith("f") and not name.startswith(_X86_NO_FLOATS)


# arm64 (Arm ARM, C6 and C7).

_ARM_XORS = frozenset(["eor", "eon", "eor3", "bcax", "veor"])
_ARM_ROTATES = frozenset(["ror", "rorv", "extr", "xar", "rax1"])
_ARM_MULTIPLIES = frozenset(
    sign + name
    for sign in ("", "u", "s")
    for name in ("mul", "mulh", "mull", "madd", "maddl", "msub", "msubl", "mneg")
)
_ARM_CIPHER_STARTS = ("aes", "sha1", "sha256", "sha512", "sm3", "sm4")
_ARM_BRANCHES = frozenset(["b", "br"])
_ARM_BRANCH_STARTS = ("b.", "bl", "ret", "cbz", "cbnz", "tbz", "tbnz", "svc")
_ARM_VECTOR = frozenset(
    (
        *("add", "sub", "shl", "ushr", "sshr", "sli", "sri", "orr", "and", "bic", "bsl", "bit"),
        *("bif", "ext", "rev32", "umlal", "umull", "ushl"),
    )
)
_ARM_MOVE_STARTS = ("ld", "st", "mov", "dup", "ins", "umov", "smov")


def arm_class(mnemonic: str, operands: str) -> int:
    """Return the class of one instruction."""
    is_vector = operands.startswith(("v", "q"))
    if mnemonic in _ARM_XORS:
        return OTHER if _is_one_register(operands) else XOR
    if mnemonic in _ARM_ROTATES:
        return ROTATE
    if mnemonic == "msr":
        return ROUNDING if operands.startswith("fpcr") else OTHER
    if mnemonic.startswith(_ARM_CIPHER_STARTS):
        return CIPHER
    if mnemonic in _ARM_BRANCHES or mnemonic.startswith(_ARM_BRANCH_STARTS):
        return BRANCH
    if mnemonic.startswith(("f", "ucvtf", "scvtf")) and not mnemonic.startswith("fmov"):
        return PAIRS if mnemonic == "scvtf" and ".2d" in operands else FLOAT
    if mnemonic.startswith(_ARM_MOVE_STARTS):
        return OTHER
    if is_vector:
        return VECTOR if mnemonic in _ARM_VECTOR else MEDIA
    return MULTIPLY if mnemonic in _ARM_MULTIPLIES else OTHER
