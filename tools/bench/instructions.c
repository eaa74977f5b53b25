// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU's emulation (TCG): which instructions the machine executes,
 * those of a guest within it included, between two marks that a program in it
 * makes. A mark is this instruction, with a number in rax, and does nothing:
 *
 *	nopl 0x504f5453(%rax)
 *
 * An even number begins a span, the odd one after it ends it. At each end a line
 * goes to the file that the argument out= names: half the number, then for each
 * place that was executed its index and how often:
 *
 *	span NUMBER INDEX:COUNT INDEX:COUNT ...
 *
 * What a place is, is told before it is first used there. It is an instruction of
 * a kernel, or 16 bytes of a program, in which a function may begin:
 *
 *	place INDEX host|guest ADDRESS
 *
 * Whether it is the machine's or its guest's is known from VMRUN: what is executed
 * from there on until the instruction behind it is the guest's.
 *
 * An instruction counts when it begins. One with a rep prefix counts once each
 * time that the emulation begins it, not for each element.
 *
 * Not by -icount, which would count as well: with it, a nested guest of an
 * emulated AMD machine was seen to lock up for good while it booted.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <glib.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

/* What a machine executes in its life with one guest is a third of that. */
#define PLACES (1u << 20)
/* All places beyond, together. */
#define OTHERS 0

static const uint8_t mark[] = { 0x0f, 0x1f, 0x80, 'S', 'T', 'O', 'P' };
static const uint8_t vmrun[] = { 0x0f, 0x01, 0xd8 };

struct place {
	uint64_t address;
	bool guest;
	bool told;
};

static struct place places[PLACES];
static unsigned int used = OTHERS + 1;
static GHashTable *indices;

/* How often each place was executed since the last begin, by its index. */
static struct qemu_plugin_scoreboard *counts;
/* Whether the guest runs. */
static qemu_plugin_u64 in_guest;
/* The instruction behind VMRUN, by the machine's memory. */
static uint8_t *behind_vmrun;

static struct qemu_plugin_register *rax;
static FILE *file;

static void end(uint64_t span)
{
	uint64_t *count = qemu_plugin_scoreboard_find(counts, 0);

	for (unsigned int i = 0; i < used; i++) {
		if (!count[i] || places[i].told)
			continue;
		places[i].told = true;
		fprintf(file, "place %u %s %" PRIx64 "\n", i, places[i].guest ? "guest" : "host",
			places[i].address);
	}
	fprintf(file, "span %" PRIu64, span);
	for (unsigned int i = 0; i < used; i++)
		if (count[i])
			fprintf(file, " %u:%" PRIu64, i, count[i]);
	fputc('\n', file);
}

static void on_mark(unsigned int cpu, void *unused)
{
	g_autoptr(GByteArray) value = g_byte_array_new();
	uint64_t number = 0;

	qemu_plugin_read_register(rax, value);
	memcpy(&number, value->data, MIN(value->len, sizeof(number)));
	if (number & 1)
		end(number >> 1);
	else
		memset(qemu_plugin_scoreboard_find(counts, 0), 0, used * sizeof(uint64_t));
}

static unsigned int place(uint64_t address, bool guest)
{
	/* The upper half is the kernel's. */
	uint64_t key = address >> 63 ? address : address & ~UINT64_C(15);
	gint64 *found, index;

	/* No address has this bit unlike the next one. */
	key ^= (uint64_t)guest << 62;
	found = g_hash_table_lookup(indices, &key);
	if (found)
		return *found;
	if (used == PLACES)
		return OTHERS;
	index = used++;
	places[index].address = key ^ (uint64_t)guest << 62;
	places[index].guest = guest;
	g_hash_table_insert(indices, g_memdup2(&key, sizeof(key)), g_memdup2(&index, sizeof(index)));
	return index;
}

static bool is(struct qemu_plugin_insn *insn, const uint8_t *what, size_t size)
{
	uint8_t bytes[16];

	return qemu_plugin_insn_size(insn) == size &&
	       qemu_plugin_insn_data(insn, bytes, size) == size && !memcmp(bytes, what, size);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	/* A block is translated anew for the guest, and when it is about to run. */
	bool guest = qemu_plugin_u64_get(in_guest, 0);

	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t *memory = qemu_plugin_insn_haddr(insn);
		qemu_plugin_u64 count = { counts, 0 };

		if (memory && memory == behind_vmrun) {
			guest = false;
			qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
				insn, QEMU_PLUGIN_INLINE_STORE_U64, in_guest, 0);
		}
		if (is(insn, vmrun, sizeof(vmrun))) {
			behind_vmrun = memory + sizeof(vmrun);
			qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
				insn, QEMU_PLUGIN_INLINE_STORE_U64, in_guest, 1);
		}
		if (is(insn, mark, sizeof(mark)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_R_REGS,
							       NULL);
		/* By the instruction, not by the block: an exit may end a block anywhere. */
		count.offset = sizeof(uint64_t) * place(qemu_plugin_insn_vaddr(insn), guest);
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
			insn, QEMU_PLUGIN_INLINE_ADD_U64, count, 1);
	}
}

static void on_cpu(qemu_plugin_id_t id, unsigned int cpu)
{
	g_autoptr(GArray) registers = qemu_plugin_get_registers();

	for (guint i = 0; i < registers->len; i++) {
		qemu_plugin_reg_descriptor *reg =
			&g_array_index(registers, qemu_plugin_reg_descriptor, i);

		if (!strcmp(reg->name, "rax"))
			rax = reg->handle;
	}
}

static void on_end(qemu_plugin_id_t id, void *unused)
{
	fclose(file);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
					   int argc, char **argv)
{
	if (info->system.max_vcpus != 1) {
		fprintf(stderr, "instructions: expected a machine with one CPU (-smp 1), found %d\n",
			info->system.max_vcpus);
		return -1;
	}
	for (int i = 0; i < argc; i++)
		if (g_str_has_prefix(argv[i], "out="))
			file = fopen(argv[i] + strlen("out="), "w");
	if (!file) {
		fprintf(stderr, "instructions: expected out=, of a file that can be written\n");
		return -1;
	}
	indices = g_hash_table_new(g_int64_hash, g_int64_equal);
	counts = qemu_plugin_scoreboard_new(PLACES * sizeof(uint64_t));
	in_guest = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
	qemu_plugin_register_vcpu_init_cb(id, on_cpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	qemu_plugin_register_atexit_cb(id, on_end, NULL);
	return 0;
}
