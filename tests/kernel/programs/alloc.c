#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
static void *w(void *a) {
    unsigned r = (long)a * 77 + 1;
    void *s[64] = {0};
    for (int i = 0; i < 500; i++) {
        r = r * 1103515245 + 12345;
        int k = (r >> 16) & 63;
        free(s[k]);
        size_t n = (r >> 8) % 5 == 0 ? 140000 + (r >> 9) % 200000 : (r >> 9) % 9000;
        s[k] = malloc(n);
        memset(s[k], i, n);
    }
    for (int i = 0; i < 64; i++)
        free(s[i]);
    return 0;
}
int main() {
    pthread_t t[4];
    for (int k = 0; k < 2; k++) {
        for (long i = 0; i < 4; i++)
            pthread_create(&t[i], 0, w, (void *)(i + k * 9));
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], 0);
        malloc_trim(0);
    }
    w((void *)5);
    return 0;
}
