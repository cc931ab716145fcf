/* HTTP announces at a steady rate over some connections that stay open.

   paced PORT SECONDS RATE CONNECTIONS HASHES PORTS   prints p50, p99 and the maximum in microseconds

   The time of a reply counts from when its request was due, even if it was sent late because the
   replies before it were late. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { MOST = 64, CHANGES = 128 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int request(char *text, size_t room, long number, uint32_t hashes, uint32_t ports) {
    uint32_t hash = number * 7919 % hashes, first = hash * 2654435761u;
    uint32_t port = 10000 + (uint32_t)(number * 104729 % ports);
    int is_seed = (port + !(number % CHANGES)) % 2 == 0; /* as in announce.lua */
    int size = snprintf(text, room, "GET /announce?info_hash=");
    for (int i = 0; i < 20; i++) {
        uint8_t byte = i < 4 ? first >> (24 - 8 * i) : i < 8 ? hash >> (56 - 8 * i) : 0;
        size += snprintf(text + size, room - size, "%%%02X", byte);
    }
    return size + snprintf(text + size, room - size,
        "&peer_id=-XX0001-%012ld&port=%u&uploaded=0&downloaded=0&left=%d&numwant=50&compact=1"
        " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n",
        number, port, is_seed ? 0 : 1000);
}

int main(int count, char **words) {
    if (count != 7) return 2;
    double seconds = atof(words[2]), gap = 1 / atof(words[3]);
    int connections = atoi(words[4]), one = 1;
    if (connections < 1 || connections > MOST) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct pollfd polled[MOST];
    double due[MOST] = {0}, *took = malloc(sizeof(double) * (size_t)(seconds / gap + 2));
    for (int i = 0; i < connections; i++) {
        polled[i] = (struct pollfd){socket(AF_INET, SOCK_STREAM, 0), POLLIN, 0};
        setsockopt(polled[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(polled[i].fd, (void *)&to, sizeof to)) return perror("connect"), 1;
    }
    char text[1024], reply[65536];
    long sent = 0, answered = 0;
    double start = now(), until = start + seconds;
    while (now() < until || answered < sent) {
        if (now() > until + 10) return fprintf(stderr, "no reply\n"), 1;
        double next = start + sent * gap;
        for (int i = 0; i < connections && next <= now() && next < until; i++) {
            if (due[i]) continue;
            int size = request(text, sizeof text, sent++, atoi(words[5]), atoi(words[6]));
            if (send(polled[i].fd, text, size, 0) != size) return perror("send"), 1;
            due[i] = next, next = start + sent * gap;
        }
        if (poll(polled, connections, 0) <= 0) continue;
        for (int i = 0; i < connections; i++) {
            if (!polled[i].revents) continue;
            if (recv(polled[i].fd, reply, sizeof reply, 0) <= 0) return perror("recv"), 1;
            took[answered++] = now() - due[i], due[i] = 0;
        }
    }
    qsort(took, answered, sizeof *took, by_size);
    if (!answered) return 1;
    printf("%.0f %.0f %.0f\n", took[answered / 2] * 1e6, took[answered * 99 / 100] * 1e6,
           took[answered - 1] * 1e6);
    return 0;
}
