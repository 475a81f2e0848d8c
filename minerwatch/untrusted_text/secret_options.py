"""Options and positions by which programs are given secrets, where the name does not show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

_TABLE = """
curl            -u@ -U@ -b --cookie -E@ --cert@
wget wget2      --user@
http https xh   -a@ --auth@
ab              -A@ -P@ -C
hey siege wrk   -a@
ftp lftp ncftp curlftpfs   -u@
ncftpput ncftpget ncftpls  -p
aria2c          --http-user@
sshpass         -p
plink pscp psftp kitty putty  -pw
ssh-keygen      -N -P
openssl         -k -K -pass -passin -passout -psk -passwd -srppass -key_pass -hmac >passwd
gpg gpg2 gpgsm  --passphrase
cryptsetup      --key
pdftk           =user_pw =owner_pw =input_pw
qpdf            --encrypt
pdftotext pdftoppm pdftocairo pdfinfo pdfimages pdffonts pdfdetach  -upw -opw
mutool          -p
mysql mysqldump mysqladmin mysqlimport mysqlshow mysqlcheck mysqlbinlog mysqlslap mysqlsh -p*
mariadb mariadb-dump mariadb-admin mariadb-check mariadb-import mariadb-show -p*
mysqladmin mariadb-admin   =password
mongo mongosh mongod mongodump mongorestore mongoexport mongoimport mongofiles mongostat -p
cqlsh           -p
cypher-shell    -p
influx          -t -p
clickhouse clickhouse-client  --password
redis-cli valkey-cli keydb-cli redis-benchmark  -a --pass =requirepass =masterauth
redis-cli valkey-cli keydb-cli  >AUTH >AUTH2 >auth >auth2
snowsql beeline  -p
sqlcmd bcp isql tsql osql fisql  -P
isql            >isql3
db2             =using
sqlplus sqlcl rman expdp impdp exp imp sqlldr  >/
etcdctl         --user@ >put2
rabbitmqctl     >add_user2 >change_password2 >authenticate_user2
rabbitmqadmin   -p
mosquitto_pub mosquitto_sub mosquitto_rr  -P --pw
nats            --nkey
mosquitto_passwd  >mosquitto_passwd3
ldapsearch ldapadd ldapmodify ldapdelete ldapwhoami ldappasswd ldapcompare ldapmodrdn  -w
ldappasswd      -s -a
samba-tool      >create2 >setpassword2
smbclient rpcclient net smbget smbcacls smbtree nmblookup  -U@
smbclient       >smbclient2
smbmap          -p
net             >use3 >use4
nxc netexec crackmapexec cme hydra medusa ncrack evil-winrm smbexec psexec wmiexec  -p
xfreerdp xfreerdp3 wlfreerdp rdesktop  -p
snmpwalk snmpget snmpset snmpbulkwalk snmpbulkget snmptrap snmptable  -c -A -X
ipmitool ipmi-sensors ipmipower  -P -p
fence_ipmilan fence_apc fence_ilo  -p
racadm          -p
docker+login podman+login nerdctl+login buildah+login helm+login crane+login oras+login -p
skopeo+login    -p
docker+swarm    --token
podman buildah skopeo  --creds@ --src-creds@ --dest-creds@
ctr nerdctl     -u@ --user@
kubectl oc      --from-literal@
oc              -p
k3s rke2        -t --token
kubeadm         --token --certificate-key
az              -p
aws s3cmd       --secret_key
aws+ssm         --value
az+keyvault     --value
conda anaconda+--set  =token
anaconda        -t --token
mc              >set3 >set4 >add3 >add4
vault           >login >unseal >unwrap >revoke >lookup >renew
bao             >login >unseal >unwrap >revoke >lookup >renew
consul          --http-auth@ >put2
consul nomad serf  -encrypt --encrypt
conan           -p
cargo           >login
twine flit      -p
poetry          -p >http-basic >http-basic2
wandb           >login
comet           >login
huggingface-cli hf  --token
gh+secret       -b --body
cf              -p >auth2
ibmcloud fly esxcli openfortivpn airflow  -p
vercel fly flyctl codecov gitlab-runner drone-cli drone  -t
gitlab-runner   -r
nuget           -k
prefect         -k --key
bw              >unlock >login2
netlify hysteria  --auth
swift           -K --key
doctl hcloud linode-cli civo  -t
pulumi+--secret >set >set2
rclone          >obscure
ansible-vault   >encrypt_string
chef knife      -P
tailscale       --authkey --auth-key
netbird         -k --setup-key
ngrok           >authtoken >add-authtoken
cloudflared     >install
frpc frps       -t
chisel          --auth@
ttyd gotty      -c@
ss-local ss-server ss-redir ss-tunnel sslocal ssserver  -k
sendemail sendEmail  -xp
swaks           -ap
htpasswd        >htpasswd2 >htpasswd3 >htpasswd4
wpa_passphrase  >wpa_passphrase2
iwconfig        =key
mkpasswd        >mkpasswd >mkpasswd2
useradd usermod -p
steghide veracrypt rcon mcrcon  -p
steamcmd        >+login2
sipp            -ap
caddy           --plaintext
check_mysql check_pgsql check_ldap check_imap  -p
check_http      -a@
check_snmp      -C
radtest         >radtest2 >radtest5
7z 7za 7zr 7zz rar unrar  -p* -hp*
zip unzip zipcloak funzip  -P
yt-dlp youtube-dl gallery-dl instaloader megadl  -p -2
transmission-remote transmission-daemon  -n@
transmission-daemon  -v
bitcoind bitcoin-cli litecoind dogecoind  -rpcauth@ --rpcauth@
bitcoin-cli litecoin-cli dogecoin-cli  >walletpassphrase
bitcoin-cli litecoin-cli  >walletpassphrasechange >walletpassphrasechange2
electrum        -W
monerod monero-wallet-rpc monero-wallet-cli  --rpc-login@ --daemon-login@
security        -w
expect          =send =exp_send
"""
"""One line a group: programs (``program+word``: only with that word beside it), then

``-x``   an option whose value is a secret   ``-x*``  only what is attached to it
``-x@``  a user, a separator and a secret    ``=x``   a bare word before a secret
``>x2``  the second bare word after ``x`` (``>x``: the first)   ``>/``  ``user/secret``
"""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Options and positions by which one program is given secrets."""

    beside: str = ""  # a word that must be there, too; "": none
    options: frozenset[str] = frozenset()
    attached: frozenset[str] = frozenset()
    logins: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    positions: Mapping[str, frozenset[int]] = field(default_factory=dict)
    has_slash_login: bool = False


_NONE: frozenset[str] = frozenset()  # one for all: an empty set takes 216 bytes


def _parsed() -> dict[str, tuple[Secrets, ...]]:
    table: dict[str, tuple[Secrets, ...]] = {}
    for line in _TABLE.strip().splitlines():
        entries = line.split()
        programs = [entry for entry in entries if entry[0] not in "-=>"]
        secrets_beside = cache(partial(_secrets, entries[len(programs) :]))
        for program in programs:
            name, _, beside = program.partition("+")
            table[name] = (*table.get(name, ()), secrets_beside(beside))
    return table


def _secrets(entries: Sequence[str], beside: str) -> Secrets:
    positions: dict[str, set[int]] = {}
    for entry in entries:
        if entry[0] == ">" and entry != ">/":
            word = entry[1:].rstrip("0123456789")
            positions.setdefault(word, set()).add(int(entry[1 + len(word) :] or 1))
    options = [entry for entry in entries if entry[0] == "-"]
    return Secrets(
        beside=beside,
        options=frozenset(each for each in options if each[-1] not in "*@") or _NONE,
        attached=frozenset(each[:-1] for each in options if each[-1] == "*") or _NONE,
        logins=frozenset(each[:-1] for each in options if each[-1] == "@") or _NONE,
        words=frozenset(entry[1:] for entry in entries if entry[0] == "=") or _NONE,
        positions={word: frozenset(at) for word, at in positions.items()},
        has_slash_login=">/" in entries,
    )


BY_PROGRAM: Mapping[str, tuple[Secrets, ...]] = _parsed()
"""Name of a program -> what it takes secrets by."""
