from __future__ import annotations

import ctypes
import random
import shlex
import string
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minerwatch.arguments import command_line_of
from minerwatch.untrusted_text.redaction import redacted
from minerwatch.untrusted_text.secret_shapes import tokens
from minerwatch.untrusted_text.secret_values import MASK
from tests.report.samples import POOL, WALLET, hostile_text

TEMPLATES = [
    line
    for line in Path(__file__).with_name("command_lines.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]

# What no form of its own gives away: only what stands around it says that it is a secret.
INCONSPICUOUS = (
    "tangerine42violet",
    "correct-Horse7",
    "93847261945",
    "hunter2!hunter",
    "Zaphod_2026",
    "x.y.z-9a8b7c",
)
secrets = st.one_of(
    st.sampled_from(INCONSPICUOUS),
    st.text("abcdefghijkmnpqrstuvwxyz", min_size=6, max_size=12).map(lambda word: f"{word}7q"),
    st.text(string.ascii_letters + string.digits + "!._+~", min_size=7, max_size=40)
    .filter(lambda text: text[0].isalnum() and text[-1].isalnum())
    .map(lambda text: f"k{text}9Z"),
)
words = st.text(string.ascii_lowercase, min_size=1, max_size=8)


def redacted_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a process as they are shown: its line, masked, taken apart."""
    return tuple(redacted(command_line_of(arguments)).split(" ")) if arguments else ()


def shown(line: str) -> Iterator[str]:
    """Yield all that may be shown of a command line: as typed, as text, as arguments."""
    yield redacted(line)
    try:
        arguments = shlex.split(line)
    except ValueError:  # a script's text
        return
    yield redacted(" ".join(arguments))
    yield " ".join(redacted_arguments(arguments))


def assert_hidden(secret: str, line: str) -> None:
    for text in shown(line):
        assert secret not in text, text
        assert MASK in text


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_programs_are_given_as_secret_is_not_shown(template: str) -> None:
    for secret in INCONSPICUOUS:
        assert_hidden(secret, template.replace("<S>", secret))


@given(st.sampled_from(TEMPLATES), secrets)
def test_nor_is_any_other_secret_in_its_place(template: str, secret: str) -> None:
    assert_hidden(secret, template.replace("<S>", secret))


WRAPPERS = (
    "{}",
    "sudo {}",
    "/usr/bin/{}",
    "env A=b {}",
    "timeout 60 {}",
    "nice -n 19 nohup {}",
    "docker run --rm image {}",
    "kubectl exec -it pod -- {}",
    "sh -c '{}'",
    'bash -lc "cd /tmp && {}"',
    "watch -n 5 {}",
    "xargs -n1 {}",
)
PLAIN = [line for line in TEMPLATES if not set(line) & set("\"'=&;|\\`${}")]
"""What can be put into quotes, or behind another program, as it is."""


@given(st.sampled_from(PLAIN), st.sampled_from(WRAPPERS), secrets)
def test_nor_where_another_program_starts_it(template: str, wrapper: str, secret: str) -> None:
    assume(not (template.startswith(("AWS", "PG")) or "/usr/bin" in template))
    assert_hidden(secret, wrapper.format(template.replace("<S>", secret)))


NAMES = [
    "password", "passwd", "Passphrase", "db-password", "dbPassword", "DB_PASSWORD", "smtp_pass",
    "keyStorePassword", "client_secret", "clientSecret", "app.secret", "secret-key", "SECRET_KEY",
    "aws_secret_access_key", "token", "auth-token", "authToken", "access_token", "API_TOKEN",
    "apikey", "api-key", "api_key", "apiKey", "x-api-key", "encryption-key", "private_key",
    "credentials", "pin", "otp", "cookie", "session-token", "jwt", "signature", "bearer_token",
    "spring.datasource.password", "rootPassword", "webhook-secret", "psk", "mnemonic",
]  # fmt: skip
FORMS = [
    "app --{name} {value}", "app --{name}={value}", "app -{name} {value}", "app -D{name}={value}",
    "{name}={value} app", "env {name}={value} app", "app --set {name}={value}",
    "app --{name}='{value}'", 'app --{name} "{value}"', "app '{name}: {value}'",
    "app '{{\"{name}\": \"{value}\"}}'", "app '{{\"{name}\":\"{value}\",\"b\":1}}'",
    "app \"{{'{name}': '{value}'}}\"", "app '{{\"a\":{{\"{name}\":\"{value}\"}}}}'",
    "curl 'https://example.org/a?{name}={value}'", "curl 'https://example.org/?b=1&{name}={value}&c=2'",
    "curl -H '{name}: {value}' https://example.org", "curl -d 'a=b&{name}={value}' https://example.org",
    "curl -F {name}={value} https://example.org", "sh -c 'export {name}={value}; exec app'",
    "sh -c 'app --{name} {value} --other 1'", "python -c 'connect({name}=\"{value}\")'",
    "app -e {name}={value}", "app --{name}:{value}", "app '{name} = {value}'",
    "app '<{name}>{value}</{name}>'", "app 'x=1;{name}={value};y=2'", "app {name}:{value}",
    "app -o a=b,{name}={value}",
]  # fmt: skip


@given(st.sampled_from(NAMES), st.sampled_from(FORMS), secrets)
def test_nor_what_a_name_says_is_secret(name: str, form: str, value: str) -> None:
    assume(not ("{name}:" in form and "." in name))  # a host before its port
    assert_hidden(value, form.format(name=name, value=value))


@given(
    st.sampled_from(["https", "http", "postgres", "mongodb+srv", "redis", "amqps", "git+https"]),
    words,
    secrets,
    words,
)
def test_nor_a_password_or_token_in_an_address(
    scheme: str, user: str, secret: str, host: str
) -> None:
    assert_hidden(secret, f"app {scheme}://{user}:{secret}@{host}.example.org:8080/x?y=z")
    assert_hidden(secret, f"app {scheme}://{secret}@{host}.example.org/x")
    assert_hidden(secret, f"app {scheme}://:{secret}@{host}/0 --other")
    assert_hidden(secret, f"app --url={scheme}://{user}:{secret}@{host}")


def test_an_argument_is_masked_whole_where_its_end_is_known() -> None:
    line = ["app", "--password", "two words", "PASSWORD=and three more", "Cookie: a=b; c=d", "end"]
    masked = ["app", "--password", MASK, "PASSWORD=…", "Cookie:", "end"]
    assert " ".join(redacted_arguments(line)).split()[:2] == masked[:2]
    for word in ("two", "words", "three", "more", "a=b", "c=d"):
        assert word not in " ".join(redacted_arguments(line)).split()
    assert redacted_arguments(line)[-1] == "end"


def test_the_number_of_arguments_and_of_words_stays() -> None:
    for template in TEMPLATES:
        arguments = template.split()
        assert len(redacted_arguments(arguments)) == len(arguments)
        assert len(redacted(template).split()) == len(arguments)


@given(st.lists(st.one_of(hostile_text, st.text(st.characters()))))
def test_any_arguments_can_be_redacted(arguments: list[str]) -> None:
    assert len(redacted_arguments(arguments)) == len(arguments)


def test_a_key_block_is_masked_to_its_end() -> None:
    lines = "\n".join("MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn" + "abcdefghijklmnop"[i:] for i in range(4))
    block = f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"
    for text in (
        *redacted_arguments(["app", "--pem", block, "--other"]),
        redacted(f"app {block} --other"),
        redacted(f"app {block.replace(chr(10), ' ')} --other"),
        redacted(f"app {block.replace(chr(10), chr(0xA0))} --other"),
    ):
        assert "MII" not in text
        assert "mnop" not in text
    assert redacted_arguments(["app", block, "--other"])[-1] == "--other"


# What stays readable.

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
READABLE = [
    f"docker run nginx@sha256:{SHA256}",
    f"docker run registry.example.org/app:1.2@sha256:{SHA256}",
    f"sha256sum -c {SHA256}",
    "git checkout 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
    "md5sum d41d8cd98f00b204e9800998ecf8427e",
    "ssh-keyscan SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDMNQZXbpSQbHDIcXA",
    "app --run-id 550e8400-e29b-41d4-a716-446655440000",
    "app 550E8400-E29B-41D4-A716-446655440000",
    f"xmrig -o {POOL} -u {WALLET} -p x",
    f"xmrig -o {POOL} -u {WALLET}.rig7+50000 -p rig7",
    f"xmrig --url={POOL} --user={WALLET} --pass",
    f"xmrig -o stratum+tcp://{WALLET}.rig@pool.example.org:3333",
    "t-rex -o ssl://eth.example.org:4444 -u 0x52908400098527886E0F7030069857D2E4169EE7.rig",
    "miner -u bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
    "miner -u 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa -p c=BTC",
    "miner -w kaspa:qpz2vgvlxhmyhmt22h538pjzmvvd52nuut80y5zulgpvyerlskvvwm7n4uk5a",
    "miner -u DOGE:DVNexampLeAddressWithShape1234567A.rig#ab12-cd34",
    "miner -u t1VpYecBW4UudbGcy4ufh61eWxQCoFaUrPs",
    "miner -a yespower --param-key=BitokPoW",
    "ssh -i /home/me/.ssh/id_ed25519 -p 2222 me@example.org",
    "ssh -i ~/.ssh/key h",
    "curl --cacert /etc/ca.pem --key /etc/client.key https://example.org:8443/a?page=2&sort=key",
    "mysql --defaults-file=/etc/mysql/secret.cnf -h db -P 3306",
    "docker run -p 8080:80 -u 1000:1000 -v /a:/b nginx:1.27",
    "python train.py --max-tokens 4096 --num_tokens=512 --tokenizer gpt2 --seed 42 --pin-memory",
    "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-num-batched-tokens 8192",
    "ffmpeg -i in.mp4 -pass 1 -passlogfile log -c:v libx264 out.mp4",
    "java -Djavax.net.ssl.keyStore=/etc/ks.jks -Xmx4g -jar app.jar",
    "kubectl create token builder",
    "kubectl get secret registry -o yaml",
    "app --password-file /run/secrets/db --token-file=/var/run/token --no-password --ask-pass",
    "psql -h db -p 5432 -U me --no-password",
    "sort -k 2,2n -t, file.csv",
    "rsync -a me@host:/data/ /backup/",
    "git clone ssh://git@github.com/a/b.git",
    "git clone git@github.com:a/b.git",
    "samtools sort -@ 8 -o HG00096.bam NA12878.bam",
    "python3 token.py --input secrets.csv",
    "./secret run",
    "node server.js --auth none --session-timeout 30",
    "make -j8 KEYS=1 auth=true",
]


@pytest.mark.parametrize("line", READABLE)
def test_digests_uuids_wallets_and_paths_stay_readable(line: str) -> None:
    arguments = line.split()
    assert redacted_arguments(arguments) == tuple(arguments)
    assert redacted(line) == line
    assert redacted(f"sh -c {line}") == f"sh -c {line}"


hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
base58 = st.text(
    "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=93, max_size=93
)
bech32 = st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l", min_size=39, max_size=59)


@given(hexadecimal, st.sampled_from([32, 40, 56, 64]), st.uuids(), base58, bech32)
def test_any_digest_uuid_or_wallet_stays(
    digits: str, length: int, uuid: object, monero: str, segwit: str
) -> None:
    evm = f"0x{digits[:40].upper() if digits[0] < '8' else digits[:40]}"
    for word in (digits[:length], str(uuid), f"sha256:{digits}"):
        assert redacted(f"app --id {word} {word}") == f"app --id {word} {word}"
    for wallet in (f"4{monero}x", evm, f"bc1q{segwit}"):
        for form in ("m -u {}", "m -u {}.rig", "m --user={}", "m -w {} -p x", "m -wal {}", "m {}"):
            assert redacted(form.format(wallet)) == form.format(wallet)
        login = f"m -o stratum+tcp://{wallet}.rig:{'x' * 9}7@pool.example.org:3333"
        assert wallet in redacted(login)


def test_what_is_remembered_of_hostile_lines_is_bounded_in_bytes() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(300):
            redacted(f"app --{'𐍈' * 8000}{number} --password {'x' * 8000}{number}")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 3 << 20


class _Malloc(ctypes.Structure):
    _fields_ = (("numbers", ctypes.c_size_t * 10),)  # mallinfo(3)

    @property
    def used_bytes(self) -> int:
        return int(self.numbers[4] + self.numbers[7])


def test_lines_made_for_the_regular_expressions_take_little_memory() -> None:
    words = ("sk-", "ghp_", "AKIA", "xoxb-", "eyJ", "glpat-", "AIza", "do")
    rng = random.Random(1)
    characters = string.ascii_letters + string.digits + "-_."
    state_of_malloc = ctypes.CDLL(None).mallinfo2
    state_of_malloc.restype = _Malloc
    before_bytes = state_of_malloc().used_bytes
    for _ in range(300):
        made = (
            rng.choice(words) + "".join(rng.choices(characters, k=rng.randint(3, 60)))
            for _ in range(8)
        )
        list(tokens(" ".join(made)))
    assert state_of_malloc().used_bytes - before_bytes < 2 << 20
