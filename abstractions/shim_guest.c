// SPDX-License-Identifier: GPL-2.0
/* The guest driver's part of shim.h. */

#include <linux/anon_inodes.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/reboot.h>
#include <linux/vmalloc.h>

/* For shim_vmap_pfn_kernel(), and for words that both sides use in one access. */
#if !defined(CONFIG_VMAP_PFN) || !defined(CONFIG_64BIT)
#error "the driver needs CONFIG_64BIT, and CONFIG_VMAP_PFN, which graphics drivers select"
#endif

#include "shim.h"

unsigned long shim_pci_resource_flags(struct pci_dev *pdev, unsigned int bar)
{
	return pci_resource_flags(pdev, bar);
}

/* Decrypted, as ioremap() maps: a device has no key of an encrypted guest's. */
void *shim_vmap_pfn_kernel(unsigned long *pfns, unsigned int count)
{
	return vmap_pfn(pfns, count, pgprot_decrypted(PAGE_KERNEL));
}

struct frame {
	struct vm_area_struct *vma;
	unsigned long pfn;
	pgprot_t prot;
};

static int set_frame(pte_t *pte, unsigned long addr, void *data)
{
	struct frame *frame = data;

	/* Another fault has mapped it. */
	if (!pte_none(ptep_get(pte)))
		return 0;
	set_pte_at(frame->vma->vm_mm, addr, pte,
		   pte_mkspecial(pfn_pte(frame->pfn, frame->prot)));
	return 0;
}

/*
 * Maps a page frame for a fault, with the caching that the protection of @vma
 * says. vmf_insert_pfn() takes the caching from what is known of the frame, and
 * of a BAR it is known that it is uncached, although this one is memory. As
 * i915's remap_io_mapping() does it. Decrypted if it is a device's: that has no
 * key of an encrypted guest's.
 */
int shim_map_pfn(struct vm_area_struct *vma, unsigned long addr, unsigned long pfn,
		 bool decrypted)
{
	struct frame frame = { .vma = vma, .pfn = pfn, .prot = vma->vm_page_prot };

	if (decrypted)
		frame.prot = pgprot_decrypted(frame.prot);

	return apply_to_page_range(vma->vm_mm, addr, PAGE_SIZE, set_frame, &frame);
}
