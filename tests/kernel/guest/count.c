/*
 * A QEMU plugin that counts the TLB maintenance of an AArch64 guest inside windows which
 * the guest opens and closes, and writes down what the guest tells it.
 *
 * The guest speaks by moves to the zero register, which do nothing:
 *
 *   movz xzr, #0xA001    open a window on this CPU
 *   movz xzr, #0xA002    close it
 *   movz xzr, #0xA003    write the text at x0, x1 bytes long
 *   movz xzr, #0xA004    write it, and behind it what the last window held
 *
 * A window holds the TLBI of one address space by form, with the pages that they name;
 * "s<ish>/<nsh>", the DSB ISH and DSB NSH that found such a TLBI of their CPU to complete;
 * and "i<n>", how often the CPU of the window had all others call a function: writes of
 * ICC_SGI1R_EL1 with the number that Linux uses for that, and more than one CPU named.
 * One alone is what wakes an idle CPU, and comes and goes with timers.
 * TLBI of all address spaces belong to the kernel's own mappings and are left out.
 * With sites=on each form is followed by the addresses that issued it.
 *
 * What is used of QEMU's interface (plugin API 4) is declared here, so that no header of
 * QEMU is needed.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
struct bytes { uint8_t *data; unsigned len; };               /* GByteArray */
struct named_register { struct qemu_plugin_register *handle; const char *name, *feature; };
struct registers { struct named_register *data; unsigned len; };        /* GArray */

void qemu_plugin_register_vcpu_init_cb(plugin_id, void (*)(plugin_id, unsigned));
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id,
        void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *,
        void (*)(unsigned, void *), int, void *);
struct registers *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *, struct bytes *);
bool qemu_plugin_read_memory_vaddr(uint64_t, struct bytes *, size_t);
struct bytes *g_byte_array_new(void);
struct bytes *g_byte_array_set_size(struct bytes *, unsigned);

PUBLIC int qemu_plugin_version = 4;

enum { CPUS = 16, FORMS = 64, SITES = 256, IPI_CALL_FUNC = 1 };
enum { NO_REGISTERS = 0, READ_REGISTERS = 1 };
enum kind { OPEN, CLOSE, SAY, SAY_WINDOW, TLBI, DSB_ISH, DSB_NSH, SGI };

/* One instruction of the guest that matters. */
struct watched {
    enum kind kind;
    uint32_t form;              /* of a TLBI: CRn[0], CRm and op2 */
    uint32_t operand;           /* the number of the register that holds it */
    uint64_t address;
    struct watched *next;
};

struct form { uint32_t form; uint64_t times, pages; };
struct site { const struct watched *at; uint64_t times; };

static struct qemu_plugin_register *x[CPUS][31];
static struct bytes *scratch[CPUS];
static struct watched *known[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *out;
static bool with_sites;

static int window_cpu = -1;     /* whose window is open; -1: none is */
static unsigned open_tlbi[CPUS];        /* issued there and not completed */
static uint64_t ish, nsh, sgi;
static struct form forms[FORMS];
static struct site sites[SITES];
static unsigned n_forms, n_sites;

static const char *name_of(uint32_t form)
{
    static __thread char name[24];
    static const char *const single[8] = { 0, "VAE1", "ASIDE1", 0, 0, "VALE1", 0, 0 };
    static const char *const range[8] = { 0, "RVAE1", 0, 0, 0, "RVALE1", 0, 0 };
    uint32_t crm = form >> 3 & 15, op2 = form & 7;
    bool ranged = crm == 2 || crm == 5 || crm == 6;
    const char *base = ranged ? range[op2] : single[op2];
    const char *scope = crm == 3 || crm == 2 ? "IS" : crm == 1 || crm == 5 ? "OS" : "";
    if (!base)
        return NULL;
    snprintf(name, sizeof name, "%s%s%s", base, scope, form >> 7 ? "nXS" : "");
    return name;
}

static uint64_t read_x(unsigned cpu, unsigned number)
{
    uint64_t value = 0;
    if (number < 31) {
        g_byte_array_set_size(scratch[cpu], 0);
        if (qemu_plugin_read_register(x[cpu][number], scratch[cpu]) >= 8)
            memcpy(&value, scratch[cpu]->data, 8);
    }
    return value;
}

static void count_tlbi(const struct watched *at, unsigned cpu, uint64_t operand)
{
    uint32_t crm = at->form >> 3 & 15;
    uint64_t pages = 1;
    unsigned i;
    if (crm == 2 || crm == 5 || crm == 6)
        pages = ((operand >> 39 & 31) + 1) << (5 * (operand >> 44 & 3) + 1);
    for (i = 0; i < n_forms && forms[i].form != at->form; i++)
        ;
    if (i == n_forms)                   /* there are fewer forms than room for them */
        forms[n_forms++] = (struct form){ .form = at->form };
    forms[i].times++;
    forms[i].pages += pages;
    open_tlbi[cpu]++;
    if (!with_sites)
        return;
    for (i = 0; i < n_sites && sites[i].at != at; i++)
        ;
    if (i == n_sites) {
        if (n_sites == SITES)
            return;
        sites[n_sites++] = (struct site){ .at = at };
    }
    sites[i].times++;
}

static void count_broadcast(unsigned cpu, uint64_t operand)
{
    unsigned targets = operand & 0xffff;
    sgi += window_cpu == (int)cpu && (operand >> 24 & 15) == IPI_CALL_FUNC
        && (targets & (targets - 1));
}

static void write_window(void)
{
    fprintf(out, " s%llu/%llu", (unsigned long long)ish, (unsigned long long)nsh);
    for (unsigned i = 0; i < n_forms; i++)
        fprintf(out, " %s:%llu/%llu", name_of(forms[i].form),
                (unsigned long long)forms[i].times, (unsigned long long)forms[i].pages);
    fprintf(out, " i%llu", (unsigned long long)sgi);
    for (unsigned i = 0; i < n_sites; i++)
        fprintf(out, " @%llx:%s:%llu", (unsigned long long)sites[i].at->address,
                name_of(sites[i].at->form), (unsigned long long)sites[i].times);
}

static void say(unsigned cpu, bool window)
{
    uint64_t text = read_x(cpu, 0), length = read_x(cpu, 1);
    g_byte_array_set_size(scratch[cpu], 0);
    if (!qemu_plugin_read_memory_vaddr(text, scratch[cpu], length))
        fputs("unreadable", out);
    else
        fwrite(scratch[cpu]->data, 1, length, out);
    if (window)
        write_window();
    fputc('\n', out);
    fflush(out);
}

static void executed(unsigned cpu, void *data)
{
    const struct watched *at = data;
    if (at->kind >= TLBI && __atomic_load_n(&window_cpu, __ATOMIC_RELAXED) < 0)
        return;
    pthread_mutex_lock(&lock);
    switch (at->kind) {
    case OPEN:
        window_cpu = (int)cpu;
        memset(open_tlbi, 0, sizeof open_tlbi);
        n_forms = n_sites = 0;
        ish = nsh = sgi = 0;
        break;
    case CLOSE:
        window_cpu = -1;
        break;
    case SAY:
    case SAY_WINDOW:
        say(cpu, at->kind == SAY_WINDOW);
        break;
    case TLBI:
        count_tlbi(at, cpu, read_x(cpu, at->operand));
        break;
    case DSB_ISH:
        ish += open_tlbi[cpu] > 0;
        open_tlbi[cpu] = 0;
        break;
    case DSB_NSH:
        nsh += open_tlbi[cpu] > 0;
        open_tlbi[cpu] = 0;
        break;
    case SGI:
        count_broadcast(cpu, read_x(cpu, at->operand));
        break;
    }
    pthread_mutex_unlock(&lock);
}

/* Say whether an instruction matters, and what it is. */
static bool decode(uint32_t word, struct watched *w)
{
    uint32_t crn = word >> 12 & 15, crm = word >> 8 & 15, op2 = word >> 5 & 7;
    *w = (struct watched){ .operand = word & 31 };
    if (word >= 0xd294003f && word <= 0xd294009f && (word & 0x1f) == 0x1f) {
        w->kind = OPEN + ((word >> 5 & 7) - 1);
        return true;
    }
    if ((word & 0xffff0000) == 0xd5080000 && (crn == 8 || crn == 9)) {  /* op1 0: EL1 */
        w->kind = TLBI;
        w->form = (crn & 1) << 7 | crm << 3 | op2;
        return name_of(w->form) != NULL;
    }
    if ((word & 0xfffff0ff) == 0xd503309f && (crm == 11 || crm == 7)) {
        w->kind = crm == 11 ? DSB_ISH : DSB_NSH;
        return true;
    }
    w->kind = SGI;
    return (word & 0xffffffe0) == 0xd518cba0;
}

/* Keep one record of each place, however often it is translated. */
static struct watched *keep(const struct watched *found)
{
    struct watched **head = &known[found->address >> 2 & 4095], *w;
    pthread_mutex_lock(&lock);
    for (w = *head; w; w = w->next)
        if (w->address == found->address && w->kind == found->kind
            && w->form == found->form && w->operand == found->operand)
            break;
    if (!w && (w = malloc(sizeof *w))) {
        *w = *found;
        w->next = *head;
        *head = w;
    }
    pthread_mutex_unlock(&lock);
    return w;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        struct watched found, *w;
        uint32_t word = 0;
        if (qemu_plugin_insn_data(insn, &word, 4) != 4 || !decode(word, &found))
            continue;
        found.address = qemu_plugin_insn_vaddr(insn);
        if ((w = keep(&found)))
            qemu_plugin_register_vcpu_insn_exec_cb(insn, executed,
                    w->kind == OPEN || w->kind == CLOSE || w->kind == DSB_ISH
                    || w->kind == DSB_NSH ? NO_REGISTERS : READ_REGISTERS, w);
    }
}

static void cpu_started(plugin_id id, unsigned cpu)
{
    struct registers *all = qemu_plugin_get_registers();
    (void)id;
    if (cpu >= CPUS)
        return;
    scratch[cpu] = g_byte_array_new();
    for (unsigned i = 0; i < all->len; i++) {
        const char *name = all->data[i].name;
        char *end;
        if (!name || name[0] != 'x')
            continue;
        unsigned long number = strtoul(name + 1, &end, 10);
        if (end != name + 1 && !*end && number < 31)
            x[cpu][number] = all->data[i].handle;
    }
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        if (!strcmp(argv[i], "sites=on"))
            with_sites = true;
    }
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_init_cb(id, cpu_started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
