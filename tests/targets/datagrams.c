/* Ciphers datagrams and sends them to itself, as a server of QUIC or a VPN does: neither read(2) nor write(2).
 *
 * gcc -O2 datagrams.c -l:libcrypto.so.3 */
#include <netinet/in.h>
#include <sys/socket.h>

void *EVP_chacha20_poly1305(void), *EVP_CIPHER_CTX_new(void);
int EVP_EncryptInit_ex(void *, void *, void *, const void *key, const void *nonce);
int EVP_EncryptUpdate(void *, void *to, int *size, const void *from, int from_size);
int EVP_EncryptFinal_ex(void *, void *to, int *size);

int main(void)
{
    unsigned char key[32] = {1}, nonce[12] = {2}, clear[1350] = {3}, sent[1400];
    int size, from = socket(AF_INET, SOCK_DGRAM, 0), to = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof here;
    void *cipher = EVP_CIPHER_CTX_new();
    if (bind(to, (void *)&here, length) || getsockname(to, (void *)&here, &length)
        || connect(from, (void *)&here, length))
        return 1;
    for (;; nonce[0]++) {
        EVP_EncryptInit_ex(cipher, EVP_chacha20_poly1305(), 0, key, nonce);
        EVP_EncryptUpdate(cipher, sent, &size, clear, sizeof clear);
        EVP_EncryptFinal_ex(cipher, sent + size, &size);
        if (send(from, sent, sizeof clear, 0) < 0 || recv(to, sent, sizeof sent, 0) < 0)
            return 1;
    }
}
