/*
 * A QEMU plugin that writes down, task by task, what an AArch64 guest's kernel issues.
 *
 * Linux with CONFIG_PID_IN_CONTEXTIDR writes the number of a task to CONTEXTIDR_EL1 at
 * each switch to it, so the CPU's last number is who everything belongs to:
 *
 *   T task form operand   a TLBI of one address space, with the value of its register
 *   D task ish|nsh        a DSB that finds a TLBI of its task and CPU to complete
 *   F task                a fault from user space or on a user address: fault=ADDRESS
 *   X task                another program begins: exec=ADDRESS
 *
 * The addresses are those of do_mem_abort() and begin_new_exec(). What is used of QEMU's
 * interface (plugin API 4) is declared here, so that no header of QEMU is needed.
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
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *,
        void (*)(unsigned, void *), int, void *);
struct registers *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *, struct bytes *);
struct bytes *g_byte_array_new(void);
struct bytes *g_byte_array_set_size(struct bytes *, unsigned);

PUBLIC int qemu_plugin_version = 4;

enum { CPUS = 16, NO_REGISTERS = 0, READ_REGISTERS = 1 };
enum kind { TLBI, DSB_ISH, DSB_NSH, SWITCH, FAULT, EXEC };

/* One instruction of the kernel that matters. */
struct watched {
    enum kind kind;
    uint32_t form;              /* of a TLBI: CRm and op2 */
    uint32_t operand;           /* the number of the register that holds it */
};

static struct {
    struct qemu_plugin_register *x[31];
    struct bytes *bytes;
    uint32_t task;              /* who runs */
    uint32_t issuer;            /* whose TLBIs wait for a DSB */
    bool broadcast, local;      /* which kinds of them */
} cpus[CPUS];
static FILE *out;
static uint64_t fault_at, exec_at;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static uint64_t read_x(unsigned cpu, uint32_t number)
{
    uint64_t value = 0;
    struct bytes *bytes = cpus[cpu].bytes;

    if (number > 30 || !cpus[cpu].x[number])
        return 0;
    g_byte_array_set_size(bytes, 0);
    if (qemu_plugin_read_register(cpus[cpu].x[number], bytes) >= 8)
        memcpy(&value, bytes->data, sizeof value);
    return value;
}

static void cpu_begins(plugin_id id, unsigned cpu)
{
    struct registers *all = qemu_plugin_get_registers();

    (void)id;
    for (unsigned i = 0; i < all->len; i++) {
        const char *name = all->data[i].name;

        if (name && name[0] == 'x' && name[1] >= '0' && name[1] <= '9') {
            int number = atoi(name + 1);

            if (number < 31)
                cpus[cpu].x[number] = all->data[i].handle;
        }
    }
    cpus[cpu].bytes = g_byte_array_new();
}

static void executed(unsigned cpu, void *data)
{
    const struct watched *it = data;
    uint64_t value = it->kind == TLBI || it->kind == SWITCH ? read_x(cpu, it->operand) : 0;
    uint32_t task = cpus[cpu].task;

    pthread_mutex_lock(&mutex);
    switch (it->kind) {
    case SWITCH:
        cpus[cpu].task = (uint32_t)value;
        break;
    case TLBI:
        if (cpus[cpu].issuer != task)
            cpus[cpu].broadcast = cpus[cpu].local = false;
        cpus[cpu].issuer = task;
        if (it->form >> 3 >= 6)         /* CRm 6 and 7 stay on their CPU */
            cpus[cpu].local = true;
        else
            cpus[cpu].broadcast = true;
        fprintf(out, "T %u %u %llx\n", task, it->form, (unsigned long long)value);
        break;
    case DSB_ISH:
    case DSB_NSH:
        if (cpus[cpu].issuer == task && it->kind == DSB_ISH && cpus[cpu].broadcast) {
            fprintf(out, "D %u ish\n", task);
            cpus[cpu].broadcast = cpus[cpu].local = false;
        } else if (cpus[cpu].issuer == task && cpus[cpu].local) {
            fprintf(out, "D %u nsh\n", task);
            cpus[cpu].local = false;
        }
        break;
    case FAULT:
        fprintf(out, "F %u\n", task);
        break;
    case EXEC:
        fprintf(out, "X %u\n", task);
        break;
    }
    pthread_mutex_unlock(&mutex);
}

static void watch(struct qemu_plugin_insn *insn, enum kind kind, uint32_t form,
                  uint32_t operand)
{
    struct watched *it = malloc(sizeof *it);

    if (!it)
        abort();
    *it = (struct watched){kind, form, operand};
    qemu_plugin_register_vcpu_insn_exec_cb(insn, executed,
            kind == TLBI || kind == SWITCH ? READ_REGISTERS : NO_REGISTERS, it);
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    size_t count = qemu_plugin_tb_n_insns(block);

    (void)id;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint64_t at = qemu_plugin_insn_vaddr(insn);
        uint32_t word = 0;

        if (!(at >> 63))
            return;                     /* user space issues none of these */
        qemu_plugin_insn_data(insn, &word, sizeof word);
        if ((word & 0xFFF8F000u) == 0xD5088000u)
            watch(insn, TLBI, word >> 5 & 0x7F, word & 31);
        else if (word == 0xD5033B9Fu)
            watch(insn, DSB_ISH, 0, 31);
        else if (word == 0xD503379Fu)
            watch(insn, DSB_NSH, 0, 31);
        else if ((word & 0xFFFFFFE0u) == 0xD518D020u)
            watch(insn, SWITCH, 0, word & 31);
        if (at == fault_at)
            watch(insn, FAULT, 0, 31);
        if (at == exec_at)
            watch(insn, EXEC, 0, 31);
    }
}

static void ends(plugin_id id, void *data)
{
    (void)id;
    (void)data;
    fclose(out);
}

PUBLIC int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        else if (!strncmp(argv[i], "fault=", 6))
            fault_at = strtoull(argv[i] + 6, NULL, 16);
        else if (!strncmp(argv[i], "exec=", 5))
            exec_at = strtoull(argv[i] + 5, NULL, 16);
    }
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_init_cb(id, cpu_begins);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ends, NULL);
    return 0;
}
