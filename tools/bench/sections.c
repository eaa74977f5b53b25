// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU's emulation (TCG): how many instructions a kernel module has
 * executed with interrupts off, section by section.
 *
 * A section begins where code of the module runs while EFLAGS.IF is 0 and none
 * was open. It ends at the next instruction that sets IF: sti, iret, sysret. All
 * that is executed in between counts, the kernel's functions included; up to the
 * last instruction of the module that is its own part, the rest is the kernel's
 * way out. An entry is a function of the module that the kernel calls with
 * interrupts off (a wake-up function, a timer's, an interrupt handler): each call
 * of one counts by itself too, where one section has several of them.
 *
 * Whole translation blocks are counted when they begin, so a block that an
 * exception ends counts for too much, and none for too little. An instruction
 * with a rep prefix counts once.
 *
 * A program says what to count by a mark, nopl 0x504f5453(%rax), with a number
 * in rax and its arguments in rcx and rdx:
 *
 *	RANGE	rcx up to rdx is the text of the module
 *	ENTRY	rcx is the first instruction of an entry
 *	COLLECT	rcx is a number: writes what was counted to the file that out=
 *		names, and begins anew
 *	BEGIN	a span begins: all that the machine executes counts
 *	END	it ends
 *
 * A mark in a guest of the machine (a nested one) is about the guest's module and
 * its EFLAGS; COLLECT writes both. The file has, in this order:
 *
 *	collected NUMBER
 *	spans NUMBER LONGEST TOTAL
 *	section host|guest ADDRESS NUMBER OWN WHOLE
 *	entry host|guest ADDRESS NUMBER OWN
 *	within host|guest ADDRESS NUMBER OWN WHOLE
 *	end
 *
 * ADDRESS is the place where sections began; OWN and WHOLE are those of the
 * longest of them. A section that ends within a span is under within as well.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>
#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

enum mark_number {
	RANGE = 0xb0d6e700,
	ENTRY,
	COLLECT,
	BEGIN,
	END,
};

#define WORLDS 2
#define ENTRIES 8
#define PLACES 512

/* Where Linux has its modules; the upper half of their addresses is the same. */
#define MODULES_BEGIN UINT64_C(0xffffffffa0000000)
#define MODULES_END UINT64_C(0xffffffffff000000)

static const uint8_t mark[] = { 0x0f, 0x1f, 0x80, 'S', 'T', 'O', 'P' };
static const uint8_t vmrun[] = { 0x0f, 0x01, 0xd8 };
static const uint8_t sti[] = { 0xfb };
static const uint8_t iret[] = { 0xcf };
static const uint8_t iretq[] = { 0x48, 0xcf };
static const uint8_t sysret[] = { 0x48, 0x0f, 0x07 };

/* What a CPU counts in a world: the machine itself, or its guest. */
struct counters {
	uint64_t executed;
	uint64_t open;
};

enum kind {
	SECTION_PLACE,
	ENTRY_PLACE,
	WITHIN_PLACE,
};

struct place {
	uint64_t address;
	uint64_t number;
	uint64_t own;
	uint64_t whole;
	enum kind kind;
};

struct world {
	uint64_t begin, end;
	uint64_t entries[ENTRIES];
	unsigned int entries_used;
	struct place places[PLACES];
	unsigned int places_used;
	/* The section that is open: where and when it began, and its entry. */
	uint64_t address, since;
	uint64_t entry, entry_since;
	/* When the last block of the module that was begun ends. */
	uint64_t last;
};

static struct world worlds[WORLDS];
static qemu_plugin_u64 executed[WORLDS];
static qemu_plugin_u64 open[WORLDS];
static qemu_plugin_u64 in_guest;
static uint8_t *behind_vmrun;
static uint64_t span_since, spans, span_longest, span_total;
static bool in_span;

static struct qemu_plugin_register *rax, *rcx, *rdx, *eflags;
static FILE *file;

static uint64_t read_register(struct qemu_plugin_register *reg)
{
	g_autoptr(GByteArray) value = g_byte_array_new();
	uint64_t number = 0;

	qemu_plugin_read_register(reg, value);
	memcpy(&number, value->data, MIN(value->len, sizeof(number)));
	return number;
}

static struct place *find(struct world *world, uint64_t address, enum kind kind)
{
	struct place *place;

	for (unsigned int i = 0; i < world->places_used; i++) {
		place = &world->places[i];
		if (place->address == address && place->kind == kind)
			return place;
	}
	/* The last one is for all that have no place. */
	if (world->places_used < PLACES)
		world->places_used++;
	place = &world->places[world->places_used - 1];
	place->address = address;
	place->kind = kind;
	return place;
}

static void note(struct world *world, uint64_t address, enum kind kind, uint64_t own, uint64_t whole)
{
	struct place *place = find(world, address, kind);

	place->number++;
	place->own = MAX(place->own, own);
	place->whole = MAX(place->whole, whole);
}

static void end_entry(struct world *world)
{
	if (world->entry)
		note(world, world->entry, ENTRY_PLACE, world->last - world->entry_since, 0);
	world->entry = 0;
}

/* A block of a module begins: its address, length and world are in the argument. */
static void on_module(unsigned int cpu, void *data)
{
	uint64_t word = (uintptr_t)data;
	unsigned int index = word >> 48;
	struct world *world = &worlds[index];
	uint64_t address = (word & UINT32_MAX) | ~(uint64_t)UINT32_MAX;
	uint64_t now;

	if (address < world->begin || address >= world->end)
		return;
	now = qemu_plugin_u64_get(executed[index], cpu);
	if (!qemu_plugin_u64_get(open[index], cpu)) {
		if (read_register(eflags) & 0x200)
			return;
		qemu_plugin_u64_set(open[index], cpu, 1);
		world->address = address;
		world->since = now;
	}
	for (unsigned int i = 0; i < world->entries_used; i++) {
		if (world->entries[i] != address)
			continue;
		end_entry(world);
		world->entry = address;
		world->entry_since = now;
	}
	world->last = now + (word >> 32 & 0xffff);
}

/* Interrupts go on, and a section is open. */
static void on_enable(unsigned int cpu, void *data)
{
	unsigned int index = (uintptr_t)data;
	struct world *world = &worlds[index];
	uint64_t now = qemu_plugin_u64_get(executed[index], cpu);

	end_entry(world);
	note(world, world->address, SECTION_PLACE, world->last - world->since, now - world->since);
	if (in_span)
		note(world, world->address, WITHIN_PLACE, world->last - world->since,
		     now - world->since);
	qemu_plugin_u64_set(open[index], cpu, 0);
}

static void collect(uint64_t number)
{
	static const char *const names[WORLDS] = { "host", "guest" };
	static const char *const kinds[] = { "section", "entry", "within" };

	rewind(file);
	if (ftruncate(fileno(file), 0))
		return;
	fprintf(file, "collected %" PRIu64 "\n", number);
	fprintf(file, "spans %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", spans, span_longest,
		span_total);
	for (unsigned int i = 0; i < WORLDS; i++) {
		for (unsigned int j = 0; j < worlds[i].places_used; j++) {
			struct place *place = &worlds[i].places[j];

			fprintf(file, "%s %s %" PRIx64 " %" PRIu64 " %" PRIu64,
				kinds[place->kind], names[i], place->address, place->number,
				place->own);
			if (place->kind != ENTRY_PLACE)
				fprintf(file, " %" PRIu64, place->whole);
			fputc('\n', file);
		}
		memset(worlds[i].places, 0, sizeof(worlds[i].places));
		worlds[i].places_used = 0;
	}
	fputs("end\n", file);
	fflush(file);
	spans = 0;
	span_longest = 0;
	span_total = 0;
}

static void on_mark(unsigned int cpu, void *data)
{
	struct world *world = &worlds[(uintptr_t)data];
	uint64_t now = qemu_plugin_u64_get(executed[0], cpu) + qemu_plugin_u64_get(executed[1], cpu);

	switch (read_register(rax)) {
	case RANGE:
		memset(world, 0, sizeof(*world));
		qemu_plugin_u64_set(open[(uintptr_t)data], cpu, 0);
		world->begin = read_register(rcx);
		world->end = read_register(rdx);
		break;
	case ENTRY:
		if (world->entries_used < ENTRIES)
			world->entries[world->entries_used++] = read_register(rcx);
		break;
	case COLLECT:
		collect(read_register(rcx));
		break;
	case BEGIN:
		span_since = now;
		in_span = true;
		break;
	case END:
		in_span = false;
		spans++;
		span_total += now - span_since;
		span_longest = MAX(span_longest, now - span_since);
		break;
	}
}

static bool is(struct qemu_plugin_insn *insn, const uint8_t *what, size_t size)
{
	uint8_t bytes[16];

	return qemu_plugin_insn_size(insn) == size &&
	       qemu_plugin_insn_data(insn, bytes, size) == size && !memcmp(bytes, what, size);
}

static bool enables(struct qemu_plugin_insn *insn)
{
	return is(insn, sti, sizeof(sti)) || is(insn, iret, sizeof(iret)) ||
	       is(insn, iretq, sizeof(iretq)) || is(insn, sysret, sizeof(sysret));
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	/* A block is translated anew for the guest, and when it is about to run. */
	uint64_t index = qemu_plugin_u64_get(in_guest, 0);
	uint64_t address = qemu_plugin_tb_vaddr(tb);
	size_t length = qemu_plugin_tb_n_insns(tb);

	/* The block behind VMRUN is the machine's again. */
	if (behind_vmrun && qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, 0)) == behind_vmrun) {
		index = 0;
		qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
			tb, QEMU_PLUGIN_INLINE_STORE_U64, in_guest, 0);
	}
	if (address >= MODULES_BEGIN && address < MODULES_END)
		qemu_plugin_register_vcpu_tb_exec_cb(
			tb, on_module, QEMU_PLUGIN_CB_R_REGS,
			(void *)(uintptr_t)((address & UINT32_MAX) | (uint64_t)length << 32 |
					    index << 48));
	qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, QEMU_PLUGIN_INLINE_ADD_U64,
							  executed[index], length);
	for (size_t i = 0; i < length; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (is(insn, vmrun, sizeof(vmrun))) {
			behind_vmrun = (uint8_t *)qemu_plugin_insn_haddr(insn) + sizeof(vmrun);
			qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
				insn, QEMU_PLUGIN_INLINE_STORE_U64, in_guest, 1);
		}
		if (is(insn, mark, sizeof(mark)))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_R_REGS,
							       (void *)(uintptr_t)index);
		if (enables(insn))
			qemu_plugin_register_vcpu_insn_exec_cond_cb(
				insn, on_enable, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_COND_NE,
				open[index], 0, (void *)(uintptr_t)index);
	}
}

static void on_cpu(qemu_plugin_id_t id, unsigned int cpu)
{
	static const struct {
		const char *name;
		struct qemu_plugin_register **reg;
	} wanted[] = { { "rax", &rax }, { "rcx", &rcx }, { "rdx", &rdx }, { "eflags", &eflags } };
	g_autoptr(GArray) registers = qemu_plugin_get_registers();

	for (guint i = 0; i < registers->len; i++) {
		qemu_plugin_reg_descriptor *reg =
			&g_array_index(registers, qemu_plugin_reg_descriptor, i);

		for (size_t j = 0; j < G_N_ELEMENTS(wanted); j++)
			if (!strcmp(reg->name, wanted[j].name))
				*wanted[j].reg = reg->handle;
	}
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info,
					   int argc, char **argv)
{
	struct qemu_plugin_scoreboard *board;

	if (info->system.max_vcpus != 1) {
		fprintf(stderr, "sections: expected a machine with one CPU (-smp 1), found %d\n",
			info->system.max_vcpus);
		return -1;
	}
	for (int i = 0; i < argc; i++)
		if (g_str_has_prefix(argv[i], "out="))
			file = fopen(argv[i] + strlen("out="), "w");
	if (!file) {
		fprintf(stderr, "sections: expected out=, of a file that can be written\n");
		return -1;
	}
	for (unsigned int i = 0; i < WORLDS; i++) {
		board = qemu_plugin_scoreboard_new(sizeof(struct counters));
		executed[i] = qemu_plugin_scoreboard_u64_in_struct(board, struct counters, executed);
		open[i] = qemu_plugin_scoreboard_u64_in_struct(board, struct counters, open);
	}
	in_guest = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
	qemu_plugin_register_vcpu_init_cb(id, on_cpu);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
