#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile int stop;
static void *bio(void *a) {
    while (!stop)
        usleep(2000);
    return 0;
}
int main() {
    int n = 400;
    char **v = malloc(n * sizeof *v);
    for (int i = 0; i < n; i++) {
        v[i] = malloc(3000 + i);
        memset(v[i], i, 3000);
    }
    char *big = malloc(1 << 20);
    memset(big, 1, 1 << 20);
    pthread_t t;
    pthread_create(&t, 0, bio, 0);
    unsigned r = 1;
    for (int s = 0; s < 4; s++) {
        int p[2];
        pipe(p);
        pid_t c = fork();
        if (!c) {
            FILE *f = fopen("/tmp/dump", "w");
            char *b = malloc(65536);
            for (int i = 0; i < n; i++)
                fwrite(v[i], 1, 3000, f);
            memset(b, 1, 65536);
            fclose(f);
            rename("/tmp/dump", "/tmp/dump.rdb");
            write(p[1], "x", 1);
            _exit(0);
        }
        for (int i = 0; i < 150; i++) {
            r = r * 1103515245 + 12345;
            v[(r >> 16) % n][5] = i;
            big[((r >> 10) % 256) * 4096] = i;
            if (i % 25 == 0)
                usleep(3000);
        }
        char ch;
        read(p[0], &ch, 1);
        waitpid(c, 0, 0);
        close(p[0]);
        close(p[1]);
        for (int i = 0; i < n; i++)
            v[i][7] = s;
    }
    stop = 1;
    pthread_join(t, 0);
    return 0;
}
