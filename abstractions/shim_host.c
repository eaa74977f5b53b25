// SPDX-License-Identifier: GPL-2.0
/* The host module's part of shim.h. */

#include <linux/anon_inodes.h>
#include <linux/cred.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/shmem_fs.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/reboot.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

/* For shim_synchronize_rcu_tasks(). */
#if defined(CONFIG_PREEMPTION) && !defined(CONFIG_TASKS_RCU)
#error "a kernel that preempts tasks needs CONFIG_TASKS_RCU, which kprobes select"
#endif

#include "shim.h"

bool shim_in_task(void)
{
	return in_task();
}

bool shim_current_is_dying(void)
{
	return fatal_signal_pending(current) || (current->flags & PF_EXITING);
}

unsigned int shim_task_euid(struct task_struct *task)
{
	return __kuid_val(task_cred_xxx(task, euid));
}

void shim_cond_resched(void)
{
	cond_resched();
}

/*
 * Waits until each task that is in the kernel now has slept or left it. The kernel
 * has that as synchronize_rcu() where no task is preempted.
 */
void shim_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

struct mem_cgroup *shim_get_current_mem_cgroup(void)
{
	return get_mem_cgroup_from_mm(current->mm);
}

struct mem_cgroup *shim_set_active_memcg(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

void shim_mem_cgroup_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

struct wait_table {
	poll_table pt;
	struct wait_queue_entry *wait;
	int err;
};

static void add_wait(struct file *file, wait_queue_head_t *head, poll_table *pt)
{
	struct wait_table *table = container_of(pt, struct wait_table, pt);

	/* The first queue only: an eventfd has one. */
	if (table->err == -EINVAL)
		table->err = add_wait_queue_priority_exclusive(head, table->wait);
}

/*
 * Adds @wait to the wait queue on which poll() of @file would wait, in front of
 * the others, as the only priority waiter. The caller has filled in wait->func.
 * Returns 0, -EBUSY if there is a priority waiter, -EINVAL if poll() of @file
 * does not wait.
 */
int shim_poll_add_wait(struct file *file, struct wait_queue_entry *wait)
{
	struct wait_table table = { .wait = wait, .err = -EINVAL };

	init_poll_funcptr(&table.pt, add_wait);
	vfs_poll(file, &table.pt);
	return table.err;
}

/*
 * The F_SEAL_* of a memfd in ordinary pages, -EINVAL for any other file. The
 * kernel's memfd_get_seals() takes hugetlbfs, too, and is not exported.
 */
int shim_shmem_seals(struct file *file)
{
	struct inode *inode = file_inode(file);

	if (!IS_ENABLED(CONFIG_SHMEM) || !shmem_mapping(inode->i_mapping) ||
	    !S_ISREG(inode->i_mode))
		return -EINVAL;
	return READ_ONCE(SHMEM_I(inode)->seals);
}

void shim_inode_lock_shared(struct file *file)
{
	inode_lock_shared(file_inode(file));
}

void shim_inode_unlock_shared(struct file *file)
{
	inode_unlock_shared(file_inode(file));
}

unsigned long shim_folio_nr_pages(struct folio *folio)
{
	return folio_nr_pages(folio);
}

struct page *shim_folio_page(struct folio *folio, unsigned long n)
{
	return folio_page(folio, n);
}

long long shim_i_size(struct file *file)
{
	return i_size_read(file_inode(file));
}

int shim_file_is_rw(struct file *file)
{
	return (file->f_mode & FMODE_READ) && (file->f_mode & FMODE_WRITE);
}

void *shim_vmap_kernel(struct page **pages, unsigned int count)
{
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

