#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
static int sv[4][2];
static void *client(void *a) {
    int fd = sv[(long)a][1];
    char b[512];
    for (int i = 0; i < 60; i++) {
        memset(b, i, 512);
        write(fd, b, 512);
        read(fd, b, 512);
        if (i % 6 == 0) {
            char *m = mmap(0, 40 * 4096, 3, 0x22, -1, 0);
            memset(m, 1, 30 * 4096);
            munmap(m, 40 * 4096);
        }
    }
    shutdown(fd, SHUT_WR);
    return 0;
}
int main() {
    pthread_t t[4];
    pid_t c[4];
    for (int i = 0; i < 4; i++) {
        socketpair(AF_UNIX, SOCK_STREAM, 0, sv[i]);
        c[i] = fork();
        if (!c[i]) {
            char b[512];
            char *buf = malloc(300000);
            close(sv[i][1]);
            while (read(sv[i][0], b, 512) == 512) {
                memset(buf, b[0], 20000);
                write(sv[i][0], b, 512);
            }
            free(buf);
            exit(0);
        }
        close(sv[i][0]);
        pthread_create(&t[i], 0, client, (void *)(long)i);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], 0);
        close(sv[i][1]);
        waitpid(c[i], 0, 0);
    }
    return 0;
}
