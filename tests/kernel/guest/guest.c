/*
 * The first process of a measured kernel: it plays the programs of /programs, line by
 * line, and tells the plugin (count.c) what each line came to. The language is that of
 * kernel_text.py; README.md lists its verbs.
 *
 * Every process of a program is a child of this one, pinned to CPU 0 with a real-time
 * priority, and sleeps until it is its turn; so nothing else runs while a line is
 * measured. There is no C library: an address space holds what is written here, and
 * nothing in it is touched behind our back. After a fork, parent and child write to all
 * their own pages before either goes on, so that no later window holds such a copy.
 */
#include <stddef.h>
#include <stdint.h>

typedef unsigned long word;

enum { PROCESSES = 8, CPUS = 4, SLOTS = 16, WORDS = 12, STACK = 65536 };

/* -- system calls ----------------------------------------------------------------- */

enum {
    SYS_close = 57, SYS_ioctl = 29, SYS_mkdirat = 34, SYS_mount = 40, SYS_ftruncate = 46,
    SYS_openat = 56, SYS_read = 63, SYS_write = 64, SYS_pread64 = 67, SYS_pwrite64 = 68,
    SYS_exit = 93, SYS_exit_group = 94, SYS_futex = 98, SYS_nanosleep = 101,
    SYS_sched_setscheduler = 119, SYS_sched_setaffinity = 122, SYS_kill = 129,
    SYS_rt_sigaction = 134, SYS_reboot = 142, SYS_getrusage = 165, SYS_prctl = 167,
    SYS_munmap = 215, SYS_mremap = 216, SYS_clone = 220, SYS_mmap = 222,
    SYS_mprotect = 226, SYS_msync = 227, SYS_madvise = 233, SYS_wait4 = 260,
    SYS_memfd_create = 279, SYS_userfaultfd = 282,
};

static inline long call(long nr, word a, word b, word c, word d, word e, word f)
{
    register long x8 asm("x8") = nr;
    register word x0 asm("x0") = a, x1 asm("x1") = b, x2 asm("x2") = c;
    register word x3 asm("x3") = d, x4 asm("x4") = e, x5 asm("x5") = f;
    asm volatile("svc 0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5), "r"(x8)
                 : "memory");
    return (long)x0;
}

#define SEVENTH(a, b, c, d, e, f, g, ...) a, b, c, d, e, f, g
#define SYS(...) call(SEVENTH(__VA_ARGS__, 0, 0, 0, 0, 0, 0))

/* -- the plugin ------------------------------------------------------------------- */

static inline void open_window(void) { asm volatile(".inst 0xd294003f" ::: "memory"); }
static inline void close_window(void) { asm volatile(".inst 0xd294005f" ::: "memory"); }

static void say(const char *text, word length)
{
    register word x0 asm("x0") = (word)text, x1 asm("x1") = length;
    asm volatile(".inst 0xd294007f" :: "r"(x0), "r"(x1) : "memory");
}

static void say_window(const char *text, word length)
{
    register word x0 asm("x0") = (word)text, x1 asm("x1") = length;
    asm volatile(".inst 0xd294009f" :: "r"(x0), "r"(x1) : "memory");
}

/* -- text ------------------------------------------------------------------------- */

void *memset(void *to, int value, size_t n)
{
    for (volatile char *p = to; n--; p++)
        *p = (char)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
    volatile char *p = to;
    for (const char *q = from; n--;)
        *p++ = *q++;
    return to;
}

static word length_of(const char *text)
{
    word n = 0;
    while (text[n])
        n++;
    return n;
}

static int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static word number(const char *text)
{
    word value = 0, base = 10;
    if (text[0] == '0' && text[1] == 'x')
        base = 16, text += 2;
    for (; *text; text++)
        value = value * base + (word)(*text <= '9' ? *text - '0' : *text - 'a' + 10);
    return value;
}

static char *put_text(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

static char *put_number(char *at, word value)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n)
        *at++ = digits[--n];
    return at;
}

/* -- names ------------------------------------------------------------------------ */

struct name { const char *text; word value; };

static const struct name PROT[] = {
    { "none", 0 }, { "r", 1 }, { "w", 2 }, { "rw", 3 }, { "x", 4 }, { "rx", 5 },
    { "wx", 6 }, { "rwx", 7 }, { 0, 0 },
};
static const struct name MAP[] = {
    { "shared", 1 }, { "private", 2 }, { "fixed", 0x10 }, { "anon", 0x20 },
    { "noreserve", 0x4000 }, { "populate", 0x8000 }, { "hugetlb", 0x40000 },
    { "noreplace", 0x100000 }, { 0, 0 },
};
static const struct name ADVICE[] = {
    { "normal", 0 }, { "random", 1 }, { "sequential", 2 }, { "willneed", 3 },
    { "dontneed", 4 }, { "free", 8 }, { "remove", 9 }, { "dontfork", 10 },
    { "dofork", 11 }, { "hugepage", 14 }, { "nohugepage", 15 }, { "wipeonfork", 18 },
    { "keeponfork", 19 }, { "cold", 20 }, { "pageout", 21 }, { "populate_read", 22 },
    { "populate_write", 23 }, { "collapse", 25 }, { 0, 0 },
};
static const struct name MREMAP[] = {
    { "maymove", 1 }, { "fixed", 2 }, { "dontunmap", 4 }, { "-", 0 }, { 0, 0 },
};
static const struct name MSYNC[] = {
    { "async", 1 }, { "invalidate", 2 }, { "sync", 4 }, { 0, 0 },
};
static const struct name FEATURES[] = {
    { "-", 0 }, { "pagefault_flag_wp", 1 << 0 }, { "missing_shmem", 1 << 5 },
    { "sigbus", 1 << 7 }, { "minor_shmem", 1 << 10 }, { "exact_address", 1 << 11 },
    { "wp_hugetlbfs_shmem", 1 << 12 }, { "wp_unpopulated", 1 << 13 },
    { "wp_async", 1 << 15 }, { "move", 1 << 16 }, { 0, 0 },
};
static const struct name MODES[] = {
    { "missing", 1 }, { "wp", 2 }, { "minor", 4 }, { "-", 0 }, { 0, 0 },
};

/* Add up the values of names with commas between them. */
static word named(const struct name *table, char *text)
{
    word value = 0;
    while (text) {
        char *comma = text;
        while (*comma && *comma != ',')
            comma++;
        char *next = *comma ? comma + 1 : NULL;
        *comma = 0;
        for (const struct name *one = table; one->text; one++)
            if (same(one->text, text))
                value |= one->value;
        text = next;
    }
    return value;
}

/* -- what the processes share ------------------------------------------------------- */

static struct box {
    uint32_t turn;                      /* who is to act; 0: the first process */
    uint32_t made;                      /* who was made, and has to get ready */
    long pid;                           /* if it is a process */
    long answer;
    uint32_t signal, code;
    word faults;
    char line[256];
} *box;

enum { WAIT = 0, WAKE = 1 };

static uint32_t id_of(word process, word thread) { return 1 + process * CPUS + thread; }

static void give_turn(uint32_t who)
{
    __atomic_store_n(&box->turn, who, __ATOMIC_SEQ_CST);
    SYS(SYS_futex, (word)&box->turn, WAKE, 1 << 20);
}

static void await_turn(uint32_t id)
{
    for (uint32_t now; (now = __atomic_load_n(&box->turn, __ATOMIC_SEQ_CST)) != id;)
        SYS(SYS_futex, (word)&box->turn, WAIT, now);
}

static void nap(word microseconds)
{
    word time[2] = { microseconds / 1000000, microseconds % 1000000 * 1000 };
    SYS(SYS_nanosleep, (word)time);
}

static void pin(word cpu)
{
    word mask = 1ul << cpu;
    int priority = 10;
    SYS(SYS_sched_setaffinity, 0, sizeof mask, (word)&mask);
    SYS(SYS_sched_setscheduler, 0, 1, (word)&priority);       /* SCHED_FIFO */
}

static word faults(void)
{
    word usage[18];
    SYS(SYS_getrusage, 1, (word)usage);                       /* this thread's */
    return usage[8] + usage[9];                               /* minor and major */
}

extern char __data_start[], _end[];

/* Write to every page that this process may write to, and what it shares with others. */
static void own_all_pages(void)
{
    volatile char here = 0;
    char *stack = (char *)((word)&here & ~4095ul);
    for (char *at = (char *)((word)__data_start & ~4095ul); at < _end; at += 4096)
        *(volatile char *)at = *(volatile char *)at;
    for (int page = -8; page < 1; page++)
        *(volatile char *)(stack + page * 4096) = *(volatile char *)(stack + page * 4096);
    *(volatile uint32_t *)&box->made = *(volatile uint32_t *)&box->made;
}

/* -- accesses that may be refused --------------------------------------------------- */

static uint32_t met_signal, met_code;

/* Step over the instruction that was refused. */
static void refused(int signal, int *info, word *context)
{
    met_signal = (uint32_t)signal;
    met_code = (uint32_t)info[2];
    context[55] += 4;                   /* the program counter of the saved registers */
}

static void catch_signals(void)
{
    struct { void *handler; word flags; void *restorer; word mask; } action = {
        refused, 0x40000004, 0, 0,      /* SA_NODEFER and SA_SIGINFO */
    };
    SYS(SYS_rt_sigaction, 11, (word)&action, 0, 8);
    SYS(SYS_rt_sigaction, 7, (word)&action, 0, 8);
}

static word load(word at)
{
    word value = 0;
    asm volatile("ldr %0, [%1]" : "+r"(value) : "r"(at) : "memory");
    return value;
}

static void store(word at, word value)
{
    asm volatile("str %0, [%1]" :: "r"(value), "r"(at) : "memory");
}

/* -- one line ------------------------------------------------------------------------ */

static int slots[SLOTS];
static word me;                         /* the number of this process */
static char stacks[CPUS][STACK] __attribute__((aligned(4096)));

struct range { word start, length; };

/* Put a zero behind each word. */
static int take_apart(char *line, char **words)
{
    int n = 0;
    while (*line && n < WORDS) {
        while (*line == ' ')
            *line++ = 0;
        if (*line)
            words[n++] = line;
        while (*line && *line != ' ')
            line++;
    }
    return n;
}

static void serve(uint32_t id);

/* The body of another thread. */
static void thread_on(word cpu)
{
    pin(cpu);
    serve(id_of(me, cpu));
}

static void start_thread(word cpu)
{
    /* VM, FS, FILES, SIGHAND, THREAD, SYSVSEM */
    word flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000;
    register word x0 asm("x0") = flags;
    register word x1 asm("x1") = (word)(stacks[cpu] + STACK);
    register word x2 asm("x2") = 0, x3 asm("x3") = 0, x4 asm("x4") = 0;
    register word x8 asm("x8") = SYS_clone;
    register word x19 asm("x19") = cpu;
    register word x20 asm("x20") = (word)thread_on;
    asm volatile("svc 0\n\tcbnz x0, 1f\n\tmov x0, x19\n\tblr x20\n1:"
                 : "+r"(x0) : "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x8), "r"(x19),
                   "r"(x20) : "x30", "memory");
}

/* Fork; the child is the first process's own, which waits for it. */
static void do_fork(word child)
{
    word before = faults();
    open_window();
    long pid = SYS(SYS_clone, 0x8000 | 17, 0, 0, 0, 0);       /* PARENT, SIGCHLD */
    if (!pid) {
        me = child;
        serve(id_of(child, 0));
    }
    close_window();
    box->faults = faults() - before;
    box->answer = pid < 0 ? pid : 0;
    box->made = pid < 0 ? 0 : id_of(child, 0);
    box->pid = pid;
    own_all_pages();
}

static long ioctl_range(int fd, word request, word start, word length, word mode)
{
    word args[5] = { start, length, mode, 0, 0 };
    return SYS(SYS_ioctl, (word)fd, request, (word)args);
}

static long new_userfaultfd(word features)
{
    word api[3] = { 0xaa, features, 0 };
    long fd = SYS(SYS_userfaultfd, 02004000);                 /* CLOEXEC, NONBLOCK */
    if (fd >= 0) {
        long error = SYS(SYS_ioctl, (word)fd, 0xc018aa3f, (word)api);
        if (error < 0) {
            SYS(SYS_close, (word)fd);
            return error;
        }
    }
    return fd;
}

static int slot_of(char *text) { return slots[number(text) % SLOTS]; }

/* Requests that say in a last field how much they did. */
static long ioctl_done(int fd, word request, word *args, int done)
{
    long error = SYS(SYS_ioctl, (word)fd, request, (word)args);
    return error < 0 ? error : (long)args[done];
}

/* Perform one line, all but the windows of fork and exit. */
static long perform(char **w, int n)
{
    char *verb = w[1];
    word a = 0, b = 0, c = 0, d = 0, total = 0;
    long result = 0;
#define NUMBER(i) (n > (i) ? number(w[i]) : 0)
    if (same(verb, "read") || same(verb, "write")) {
        int writes = same(verb, "write"), more = writes ? 4 : 3;
        a = NUMBER(2), b = writes ? NUMBER(3) : 0;
        c = n > more ? number(w[more]) : 1;
        d = n > more + 1 ? number(w[more + 1]) : 4096;
        open_window();
        for (word i = 0; i < c && !met_signal; i++, a += d)
            if (writes)
                store(a, b);
            else
                total += load(a);
        close_window();
        return (long)total;
    }
    if (same(verb, "mmap")) {
        word prot = named(PROT, w[4]), flags = named(MAP, w[5]), off = NUMBER(7);
        word fd = n > 6 ? (word)slot_of(w[6]) : (word)-1;
        a = NUMBER(2), b = NUMBER(3);
        open_window();
        result = SYS(SYS_mmap, a, b, prot, flags, fd, off);
    } else if (same(verb, "munmap")) {
        a = NUMBER(2), b = NUMBER(3);
        open_window();
        result = SYS(SYS_munmap, a, b);
    } else if (same(verb, "mprotect")) {
        a = NUMBER(2), b = NUMBER(3), c = named(PROT, w[4]);
        open_window();
        result = SYS(SYS_mprotect, a, b, c);
    } else if (same(verb, "madvise")) {
        a = NUMBER(2), b = NUMBER(3), c = named(ADVICE, w[4]);
        open_window();
        result = SYS(SYS_madvise, a, b, c);
    } else if (same(verb, "mremap")) {
        word flags = named(MREMAP, w[5]), to = NUMBER(6);
        a = NUMBER(2), b = NUMBER(3), c = NUMBER(4);
        open_window();
        result = SYS(SYS_mremap, a, b, c, flags, to);
    } else if (same(verb, "msync")) {
        a = NUMBER(2), b = NUMBER(3), c = named(MSYNC, w[4]);
        open_window();
        result = SYS(SYS_msync, a, b, c);
    } else if (same(verb, "memfd")) {
        word flags = n > 3 && same(w[3], "huge") ? 4 : 0;
        open_window();
        result = SYS(SYS_memfd_create, (word)"m", flags);
    } else if (same(verb, "ftruncate")) {
        a = (word)slot_of(w[2]), b = NUMBER(3);
        open_window();
        result = SYS(SYS_ftruncate, a, b);
    } else if (same(verb, "pread")) {
        a = (word)slot_of(w[2]), b = NUMBER(3);
        open_window();
        result = SYS(SYS_pread64, a, (word)&total, 8, b);
        if (result >= 0)
            result = result ? (long)total : -1000;            /* the end of the file */
    } else if (same(verb, "pwrite")) {
        a = (word)slot_of(w[2]), b = NUMBER(3), total = NUMBER(4);
        c = n > 5 ? number(w[5]) : 1;
        d = n > 6 ? number(w[6]) : 4096;
        open_window();
        for (word i = 0; i < c && result >= 0; i++, b += d)
            result = SYS(SYS_pwrite64, a, (word)&total, 8, b);
        result = result < 0 ? result : 0;
    } else if (same(verb, "close")) {
        a = (word)slot_of(w[2]);
        slots[number(w[2]) % SLOTS] = -1;
        open_window();
        result = SYS(SYS_close, a);
    } else if (same(verb, "uffd")) {
        a = n > 3 ? named(FEATURES, w[3]) : 0;
        open_window();
        result = new_userfaultfd(a);
    } else if (same(verb, "register")) {
        int fd = slot_of(w[2]);
        word args[4] = { NUMBER(3), NUMBER(4), named(MODES, w[5]), 0 };
        open_window();
        result = SYS(SYS_ioctl, (word)fd, 0xc020aa00, (word)args);
    } else if (same(verb, "unregister")) {
        struct range args = { NUMBER(3), NUMBER(4) };
        int fd = slot_of(w[2]);
        open_window();
        result = SYS(SYS_ioctl, (word)fd, 0x8010aa01, (word)&args);
    } else if (same(verb, "wp")) {
        int fd = slot_of(w[2]);
        a = NUMBER(3), b = NUMBER(4), c = same(w[5], "on");
        open_window();
        result = ioctl_range(fd, 0xc018aa06, a, b, c);
    } else if (same(verb, "copy")) {
        int fd = slot_of(w[2]);
        word args[5] = { NUMBER(3), NUMBER(4), NUMBER(5),
                         n > 6 && same(w[6], "wp") ? 2 : 0, 0 };
        open_window();
        result = ioctl_done(fd, 0xc028aa03, args, 4);
    } else if (same(verb, "zero")) {
        int fd = slot_of(w[2]);
        word args[4] = { NUMBER(3), NUMBER(4), 0, 0 };
        open_window();
        result = ioctl_done(fd, 0xc020aa04, args, 3);
    } else if (same(verb, "continue")) {
        int fd = slot_of(w[2]);
        word args[4] = { NUMBER(3), NUMBER(4), 0, 0 };
        open_window();
        result = ioctl_done(fd, 0xc020aa07, args, 3);
    } else if (same(verb, "move")) {
        int fd = slot_of(w[2]);
        word args[5] = { NUMBER(3), NUMBER(4), NUMBER(5),
                         n > 6 && same(w[6], "holes") ? 2 : 0, 0 };
        open_window();
        result = ioctl_done(fd, 0xc028aa05, args, 4);
    } else if (same(verb, "thread")) {
        open_window();
        close_window();
        start_thread(NUMBER(2));
        box->made = id_of(me, NUMBER(2));
        return 0;
    } else {
        open_window();
        result = -1001;                                       /* no such verb */
    }
    close_window();
    if (result >= 0 && (same(verb, "memfd") || same(verb, "uffd"))) {
        slots[number(w[2]) % SLOTS] = (int)result;
        result = 0;
    }
    return result;
}

/* Act whenever it is the turn of *id*. */
static void serve(uint32_t id)
{
    static char copy[CPUS][256];
    char *words[WORDS];
    await_turn(id);
    own_all_pages();
    load(0);                            /* so that a signal finds its pages mapped */
    for (;;) {
        give_turn(0);
        await_turn(id);
        char *line = copy[(id - 1) % CPUS];
        memcpy(line, box->line, sizeof box->line);
        int n = take_apart(line, words);
        met_signal = 0;
        if (same(words[1], "fork")) {
            do_fork(number(words[2]));
            continue;
        }
        if (same(words[1], "exit")) {
            open_window();
            SYS(SYS_exit_group, 0);
        }
        word before = faults();
        long answer = perform(words, n);
        box->faults = faults() - before;
        box->answer = answer;
        box->signal = met_signal;
        box->code = met_code;
    }
}

/* -- the first process ----------------------------------------------------------------- */

static void set(const char *path, const char *text)
{
    long fd = SYS(SYS_openat, (word)-100, (word)path, 1);
    if (fd >= 0) {
        SYS(SYS_write, (word)fd, (word)text, length_of(text));
        SYS(SYS_close, (word)fd);
    }
}

#define THP "/sys/kernel/mm/transparent_hugepage/"

static void set_system(char **w)
{
    static char path[128];
    if (same(w[1], "thp"))
        set(THP "enabled", w[2]);
    if (same(w[1], "mthp")) {
        char *at = put_text(path, THP "hugepages-");
        at = put_text(put_text(at, w[2]), "kB/enabled");
        *at = 0;
        set(path, w[3]);
    }
}

static long pids[PROCESSES];

static void begin_program(void)
{
    set(THP "enabled", "madvise");
    set(THP "hugepages-16kB/enabled", "never");
    set(THP "hugepages-64kB/enabled", "never");
    set("/proc/sys/vm/drop_caches", "1");                     /* drains LRU batches */
    long made = SYS(SYS_clone, 17, 0, 0, 0, 0);
    if (!made) {
        pin(0);
        catch_signals();
        for (int i = 0; i < SLOTS; i++)
            slots[i] = -1;
        serve(id_of(0, 0));
    }
    own_all_pages();
    pids[0] = made;
    give_turn(id_of(0, 0));
    await_turn(0);
}

static void end_program(void)
{
    for (int i = 0; i < PROCESSES; i++)
        if (pids[i] > 0) {
            SYS(SYS_kill, (word)pids[i], 9);
            SYS(SYS_wait4, (word)pids[i], 0, 0, 0);
            pids[i] = 0;
        }
    box->turn = 0;
}

/* Let one line be played, and tell what it came to. */
static void play(char *line)
{
    static char copy[256], said[64];
    char *words[WORDS], *at = said;
    word length = length_of(line);
    if (length >= sizeof copy)
        length = sizeof copy - 1;
    memcpy(copy, line, length);
    copy[length] = 0;
    memcpy(box->line, copy, length + 1);
    take_apart(copy, words);
    if (words[0][0] == '-') {
        open_window();
        close_window();
        set_system(words);
        say_window("0 f0", 4);
        return;
    }
    word process = (word)(words[0][0] - '0') % PROCESSES;
    word thread = words[0][1] == '.' ? (word)(words[0][2] - '0') : 0;
    box->answer = 0, box->faults = 0, box->signal = 0, box->made = 0, box->pid = 0;
    if (same(words[1], "exit")) {
        give_turn(id_of(process, 0));
        SYS(SYS_wait4, (word)pids[process], 0, 0, 0);
        close_window();
        box->turn = 0;
        pids[process] = 0;
    } else {
        give_turn(id_of(process, thread));
        await_turn(0);
    }
    if (box->pid > 0)
        pids[number(words[2]) % PROCESSES] = box->pid;
    if (box->made) {
        give_turn(box->made);
        await_turn(0);
    }
    if (box->signal) {
        at = put_number(put_text(at, "S"), box->signal);
        at = put_number(put_text(at, "/"), box->code);
    } else if (box->answer < 0 && box->answer > -4096) {
        at = put_number(put_text(at, "E"), (word)-box->answer);
    } else {
        at = put_number(at, (word)box->answer);
    }
    at = put_number(put_text(at, " f"), box->faults);
    say_window(said, (word)(at - said));
}

static char *map(word length, word flags)
{
    return (char *)SYS(SYS_mmap, 0, length, 3, 0x20 | flags, (word)-1, 0);
}

/* Read a whole file, to where no child looks. */
static char *whole_file(const char *path, word most)
{
    char *text = map(most, 2);
    long fd = SYS(SYS_openat, (word)-100, (word)path, 0), got;
    word n = 0;
    SYS(SYS_madvise, (word)text, most, 10);                   /* MADV_DONTFORK */
    while (fd >= 0 && n < most - 1
           && (got = SYS(SYS_read, (word)fd, (word)text + n, most - 1 - n)) > 0)
        n += (word)got;
    SYS(SYS_close, (word)fd);
    text[n] = 0;
    return text;
}

static void play_all(char *text)
{
    while (*text) {
        char *end = text;
        while (*end && *end != '\n')
            end++;
        char *next = *end ? end + 1 : end;
        *end = 0;
        if (!*text) {
            end_program();
        } else if (text[0] == '#') {
            say(text, length_of(text));
            begin_program();
        } else {
            play(text);
        }
        text = next;
    }
    end_program();
}

/* Tell where each function of the kernel begins. */
static void tell_symbols(void)
{
    char *text = whole_file("/proc/kallsyms", 32 << 20);
    say("# symbols", 9);
    while (*text) {
        char *end = text;
        while (*end && *end != '\n')
            end++;
        char kind = text[17] | 0x20;
        if ((kind == 't' || kind == 'w') && text[19] != '$')
            say(text, (word)(end - text));
        text = *end ? end + 1 : end;
    }
}

void start(void);
void start(void)
{
    static const char *const folders[] = { "/proc", "/sys", "/dev" };
    for (int i = 0; i < 3; i++)
        SYS(SYS_mkdirat, (word)-100, (word)folders[i], 0755);
    SYS(SYS_mount, (word)"proc", (word)"/proc", (word)"proc", 0, 0);
    SYS(SYS_mount, (word)"sysfs", (word)"/sys", (word)"sysfs", 0, 0);
    set("/proc/sys/kernel/kptr_restrict", "0");
    set("/proc/sys/kernel/sched_rt_runtime_us", "-1");
    set("/proc/sys/vm/stat_interval", "1000");
    set("/proc/sys/vm/compaction_proactiveness", "0");
    set("/proc/sys/kernel/numa_balancing", "0");
    set(THP "khugepaged/scan_sleep_millisecs", "10000000");
    set("/proc/sys/vm/nr_hugepages", "128");
    box = (struct box *)map(4096, 1);
    pin(0);
    nap(1000000);
    say(whole_file("/proc/version", 4096), 60);
    char *thp = whole_file(THP "hugepages-64kB/enabled", 4096);
    say(thp, length_of(thp));
    play_all(whole_file("/programs", 64 << 20));
    char *cmdline = whole_file("/proc/cmdline", 4096);
    for (; *cmdline; cmdline++)
        if (cmdline[0] == ' ' && cmdline[1] == 's' && cmdline[2] == 'y'
            && cmdline[3] == 'm' && cmdline[4] == 's')
            tell_symbols();
    say("# done", 6);
    SYS(SYS_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0);    /* power off */
    for (;;)
        ;
}

asm(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tb start\n");
