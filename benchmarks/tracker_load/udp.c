/* UDP announces (BEP 15) on loopback, in a closed loop.

   udp PORT SECONDS HASHES PORTS   announces at random, 64 at a time; prints how many were answered
   udp PORT 0 HASHES PORTS         each port of each info-hash once, until all were answered
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { WINDOW = 64, ANNOUNCE = 98, CHANGES = 128 };
static uint8_t requests[WINDOW][ANNOUNCE], replies[WINDOW][2048];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint64_t draw(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static void put(uint8_t *at, uint64_t value, int bytes) {
    while (bytes--) at[bytes] = value, value >>= 8;
}

static void announce(uint8_t *p, uint32_t serial, uint32_t hash, uint32_t port) {
    put(p + 12, serial, 4);
    put(p + 16, (uint32_t)(hash * 2654435761u), 4);
    put(p + 20, hash, 4);
    put(p + 44, draw(), 8);
    int is_seed = (port + !(draw() % CHANGES)) % 2 == 0; /* as in announce.lua */
    put(p + 64, is_seed ? 0 : 1000, 8);
    put(p + 96, 10000 + port, 2);
}

int main(int count, char **words) {
    if (count != 5) return 2;
    double seconds = atof(words[2]);
    uint32_t hashes = atoi(words[3]), ports = atoi(words[4]), all = seconds ? 0 : hashes * ports;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {0, 200000};
    int fd = socket(AF_INET, SOCK_DGRAM, 0), bytes = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    uint8_t hello[16] = {0}, id[16];
    put(hello, 0x41727101980u, 8);
    if (connect(fd, (void *)&to, sizeof to) || send(fd, hello, 16, 0) != 16 ||
        recv(fd, id, 16, 0) != 16) {
        perror("connect");
        return 1;
    }
    struct mmsghdr out[WINDOW] = {0}, in[WINDOW] = {0};
    struct iovec sent[WINDOW], got[WINDOW];
    for (int i = 0; i < WINDOW; i++) {
        memcpy(requests[i], id + 8, 8);
        requests[i][11] = 1, requests[i][95] = seconds ? 50 : 0;
        memcpy(requests[i] + 36, "-XX0001-", 8);
        sent[i] = (struct iovec){requests[i], ANNOUNCE}, got[i] = (struct iovec){replies[i], 2048};
        out[i].msg_hdr.msg_iov = &sent[i], in[i].msg_hdr.msg_iov = &got[i];
        out[i].msg_hdr.msg_iovlen = in[i].msg_hdr.msg_iovlen = 1;
    }
    long answered = 0, lost = 0;
    uint32_t serial = 0;
    double until = now() + seconds;
    while (seconds ? now() < until : serial < all) {
        int batch = 0, back = 0;
        for (; batch < WINDOW && (seconds || serial < all); batch++, serial++) {
            uint32_t hash = seconds ? draw() % hashes : serial / ports;
            announce(requests[batch], serial, hash, seconds ? draw() % ports : serial % ports);
        }
        sendmmsg(fd, out, batch, 0);
        while (back < batch) {
            int read = recvmmsg(fd, in, WINDOW, MSG_WAITFORONE, 0);
            if (read <= 0) break;
            back += read;
            for (int i = 0; i < read; i++) answered += replies[i][3] == 1;
        }
        lost += batch - back;
    }
    printf("%ld %ld\n", answered, lost);
    return 0;
}
