#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static char *heap;
enum { N = 768 };
static void segv(int s, siginfo_t *i, void *u) {
    uintptr_t a = (uintptr_t)i->si_addr & -4096;
    mprotect((void *)a, 4096, 3);
}
int main() {
    struct sigaction sa = {.sa_sigaction = segv, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, 0);
    heap = mmap(0, N * 4096, 3, 0x22, -1, 0);
    unsigned r = 3;
    for (int c = 0; c < 4; c++) {
        for (int i = 0; i < N; i += 1 + c)
            heap[i * 4096] = i;
        mprotect(heap, N * 4096, 1);
        for (int i = 0; i < 60; i++) {
            r = r * 1103515245 + 12345;
            heap[((r >> 12) % N) * 4096] = i;
        }
        volatile char x;
        for (int i = 0; i < N; i += 5)
            x = heap[i * 4096];
        mprotect(heap, N * 4096, 3);
        char *to = mmap(0, N * 4096, 3, 0x22, -1, 0);
        for (int i = 0; i < N; i += 2)
            memcpy(to + i * 4096, heap + i * 4096, 64);
        madvise(heap, N / 2 * 4096, MADV_DONTNEED);
        madvise(heap + N / 2 * 4096, N / 4 * 4096, MADV_FREE);
        char *moved = mremap(to, N * 4096, N * 4096, MREMAP_MAYMOVE | MREMAP_FIXED,
                             heap + (64 << 20));
        for (int i = 0; i < N; i += 3)
            moved[i * 4096] = 1;
        munmap(moved, N * 4096);
    }
    return 0;
}
