#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile int stop;
static char *code;
static void *runner(void *a) {
    volatile char s = 0;
    unsigned k = 0;
    while (!stop) {
        s += code[(k++ % 64) * 4096];
        if (!(k & 1023))
            usleep(500);
    }
    return 0;
}
int main() {
    unsigned r = 7;
    code = mmap(0, 64 * 4096, 3, 0x22, -1, 0);
    memset(code, 1, 64 * 4096);
    mprotect(code, 64 * 4096, 5);
    char *heap = mmap(0, 512 * 4096, 3, 0x22, -1, 0);
    char *safe = mmap(0, 4096, 1, 0x22, -1, 0);
    volatile char x = *safe;
    pthread_t t;
    pthread_create(&t, 0, runner, 0);
    for (int i = 0; i < 120; i++) {
        r = r * 1103515245 + 12345;
        int p = (r >> 16) % 60, n = 1 + (r >> 8) % 4;
        mprotect(code + p * 4096, n * 4096, 3);
        for (int j = 0; j < n; j++)
            code[(p + j) * 4096] = i;
        mprotect(code + p * 4096, n * 4096, 5);
        if (i % 10 == 0) {
            mprotect(safe, 4096, 0);
            mprotect(safe, 4096, 1);
            x = *safe;
        }
        int h = (r >> 12) % 480;
        for (int j = 0; j < 16; j++)
            heap[(h + j) * 4096] = j;
        if (i % 7 == 0) {
            mprotect(heap + h * 4096, 16 * 4096, 0);
            mprotect(heap + h * 4096, 16 * 4096, i & 1 ? 1 : 3);
            for (int j = 0; j < 16; j += 3)
                x = heap[(h + j) * 4096];
            mprotect(heap + h * 4096, 16 * 4096, 3);
            for (int j = 0; j < 16; j++)
                heap[(h + j) * 4096] = j;
        }
        if (i % 13 == 0)
            madvise(heap + h * 4096, 8 * 4096, MADV_DONTNEED);
    }
    stop = 1;
    pthread_join(t, 0);
    munmap(heap, 512 * 4096);
    return 0;
}
