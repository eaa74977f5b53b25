/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel offers only as a macro or an inline function, as functions
 * that bindgen can see. Names are the kernel's, with "shim_" in front; what each
 * does is what the kernel says of it. Each module has those that it uses, in
 * shim_host.c or shim_guest.c, so that it needs no symbols of the other's.
 *
 * Types are declared, not included: bindgen takes them from the kernel crate.
 */
#ifndef STOPWATCH_SHIM_H
#define STOPWATCH_SHIM_H

struct file;
struct file_operations;
struct folio;
struct mem_cgroup;
struct notifier_block;
struct page;
struct pci_dev;
struct task_struct;
struct vm_area_struct;
struct wait_queue_entry;

/* shim_host.c */
_Bool shim_in_task(void);
_Bool shim_current_is_dying(void);
unsigned int shim_task_euid(struct task_struct *task);
void shim_cond_resched(void);
void shim_synchronize_rcu_tasks(void);

struct mem_cgroup *shim_get_current_mem_cgroup(void);
struct mem_cgroup *shim_set_active_memcg(struct mem_cgroup *memcg);
void shim_mem_cgroup_put(struct mem_cgroup *memcg);

int shim_poll_add_wait(struct file *file, struct wait_queue_entry *wait);

int shim_shmem_seals(struct file *file);
void shim_inode_lock_shared(struct file *file);
void shim_inode_unlock_shared(struct file *file);
unsigned long shim_folio_nr_pages(struct folio *folio);
struct page *shim_folio_page(struct folio *folio, unsigned long n);
long long shim_i_size(struct file *file);
int shim_file_is_rw(struct file *file);

void *shim_vmap_kernel(struct page **pages, unsigned int count);

/* shim_guest.c */
unsigned long shim_pci_resource_flags(struct pci_dev *pdev, unsigned int bar);
void *shim_vmap_pfn_kernel(unsigned long *pfns, unsigned int count);
int shim_map_pfn(struct vm_area_struct *vma, unsigned long addr, unsigned long pfn,
		 _Bool decrypted);

/* Ordinary functions of headers that the kernel crate does not bind. */
struct file *anon_inode_getfile(const char *name, const struct file_operations *fops,
				void *priv, int flags);
int register_reboot_notifier(struct notifier_block *nb);
int unregister_reboot_notifier(struct notifier_block *nb);
void vunmap(const void *addr);
void orderly_poweroff(_Bool force);

#endif /* STOPWATCH_SHIM_H */
