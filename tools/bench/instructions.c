// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU's emulation (TCG): how many instructions the machine has
 * executed, all its CPUs together, guests within it included, at each mark that
 * a program in it makes. A mark is this instruction, with a number in rax, and
 * does nothing:
 *
 *	nopl 0x504f5453(%rax)
 *
 * Each becomes a line of the file that the argument out= names: the number,
 * then the count.
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

static const uint8_t mark[] = { 0x0f, 0x1f, 0x80, 'S', 'T', 'O', 'P' };

static qemu_plugin_u64 executed;
static struct qemu_plugin_register *rax;
static FILE *file;

static void on_mark(unsigned int cpu, void *unused)
{
	g_autoptr(GByteArray) value = g_byte_array_new();
	uint64_t number = 0;

	qemu_plugin_read_register(rax, value);
	memcpy(&number, value->data, MIN(value->len, sizeof(number)));
	fprintf(file, "%" PRIu64 " %" PRIu64 "\n", number, qemu_plugin_u64_sum(executed));
	fflush(file);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t bytes[sizeof(mark)];

		if (qemu_plugin_insn_size(insn) == sizeof(mark) &&
		    qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(mark) &&
		    !memcmp(bytes, mark, sizeof(mark)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_R_REGS,
							       NULL);
		/* By the instruction, not by the block: an exit may end a block anywhere. */
		qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
			insn, QEMU_PLUGIN_INLINE_ADD_U64, executed, 1);
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

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
					   int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (g_str_has_prefix(argv[i], "out="))
			file = fopen(argv[i] + strlen("out="), "w");
	if (!file) {
		fprintf(stderr, "instructions: expected out=, of a file that can be written\n");
		return -1;
	}
	executed = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
	qemu_plugin_register_vcpu_init_cb(id, on_cpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
