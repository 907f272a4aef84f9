#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
enum { H = 2 << 20 };
int main() {
    int fd = memfd_create("pool", MFD_HUGETLB);
    ftruncate(fd, 16L * H);
    char *m = mmap(0, 16L * H, 3, 1, fd, 0);
    char *an = mmap(0, 8L * H, 3, 0x40021, -1, 0);
    char *pv = mmap(0, 6L * H, 3, 0x40022, -1, 0);
    for (int i = 0; i < 16; i++)
        m[i * (long)H] = i;
    for (int i = 0; i < 8; i++)
        an[i * (long)H] = 1;
    for (int i = 0; i < 6; i++)
        pv[i * (long)H] = 1;
    for (int k = 0; k < 3; k++) {
        pid_t c = fork();
        if (!c) {
            volatile char s = 0;
            for (int i = 0; i < 16; i++)
                s += m[i * (long)H];
            for (int i = 0; i < 8; i++)
                an[i * (long)H + 5] = k;
            pv[k * (long)H] = 9;
            mprotect(m, 4L * H, 1);
            mprotect(m, 4L * H, 3);
            m[0] = 3;
            munmap(an, 2L * H);
            _exit(0);
        }
        mprotect(m + 8L * H, 4L * H, 1);
        usleep(2000);
        mprotect(m + 8L * H, 4L * H, 3);
        for (int i = 8; i < 12; i++)
            m[i * (long)H] = k;
        waitpid(c, 0, 0);
        for (int i = 0; i < 6; i++)
            pv[i * (long)H] = k;
        madvise(m + 12L * H, 2L * H, MADV_REMOVE);
        for (int i = 12; i < 14; i++)
            m[i * (long)H] = 2;
    }
    munmap(m, 16L * H);
    munmap(an, 8L * H);
    munmap(pv, 6L * H);
    return 0;
}
