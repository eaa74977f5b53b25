// SPDX-License-Identifier: GPL-2.0

//! The guest's side of the stopwatch: finds the device on the PCI bus and offers it as
//! `/dev/stopwatch`. The time is kept by the host.
//!
//! - [`registers`] has BAR0;
//! - [`ring`] has a request ring;
//! - [`transport`] has how the host is called, and how that ends;
//! - [`clock`] has the time without a call;
//! - [`access`] has who may do what;
//! - [`events`] has the way of events from their ring to those who wait for them;
//! - [`device`] has a device, of all these;
//! - [`file`] has `/dev/stopwatch`, for programs;
//! - [`scripts`] has the same in debugfs, for scripts;
//! - [`bench`] measures.
//!
//! How rings are read and written is in `protocol/`, which knows no kernel. What needs `unsafe` is in
//! `abstractions/`, which knows no stopwatch.

use kernel::{
    cpu::nr_cpu_ids,
    device::Core,
    pci,
    prelude::*,
    sync::{
        atomic::{
            AtomicFlag,
            Relaxed, //
        },
        Arc, //
    }, //
};

mod abstractions;
mod access;
mod bench;
mod clock;
mod device;
mod events;
mod file;
mod post_rings;
#[allow(dead_code, reason = "each module uses its end of it")]
#[allow(unreachable_pub, reason = "it is a crate of its own for programs")]
#[path = "../protocol/src/protocol.rs"]
mod protocol;
mod registers;
mod ring;
mod scripts;
mod transport;
#[path = "../abstractions/uapi.rs"]
mod uapi;

use abstractions::{
    bar::enable_with_ports,
    miscdevice::MiscRegistration,
    pci_id::pci_device_id,
    pci_irq::MsixHandlers,
    pm_notifier::PmNotifier,
    reboot_notifier::RebootNotifier, //
};
use device::StopwatchDevice;
use file::{
    Opened,
    StopwatchFile, //
};
use scripts::{
    Scripts,
    TopFiles, //
};

kernel::pci_device_table!(
    PCI_TABLE,
    <StopwatchDriver as pci::Driver>::IdInfo,
    [(
        pci_device_id(
            uapi::STOPWATCH_PCI_VENDOR_ID as u16,
            uapi::STOPWATCH_PCI_DEVICE_ID as u16
        ),
        ()
    )]
);

struct StopwatchDriver;

/// The one `/dev/stopwatch` that there is in a guest: who holds this has it.
struct Claim;

impl Claim {
    fn take() -> Result<Self> {
        // Relaxed: nothing is handed over but the claim itself. What a binding leaves behind is
        // ordered by the locks of those with whom it was registered.
        if CLAIMED.xchg(true, Relaxed) {
            return Err(EBUSY);
        }
        Ok(Self)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Relaxed: as in `take()`.
        CLAIMED.store(false, Relaxed);
    }
}

static CLAIMED: AtomicFlag = AtomicFlag::new(false);

/// What there is while the driver is bound. Dropped in this order: first nobody can open the
/// device, then it cannot interrupt; at last another device may take its place.
#[pin_data]
struct Binding {
    #[pin]
    _file: MiscRegistration<StopwatchFile>,
    _top_files: TopFiles,
    _irqs: MsixHandlers,
    #[pin]
    _pm: PmNotifier<Arc<StopwatchDevice>>,
    #[pin]
    _reboot: RebootNotifier<Arc<StopwatchDevice>>,
    scripts: Arc<Scripts>,
    device: Arc<StopwatchDevice>,
    _claim: Claim,
}

impl pci::Driver for StopwatchDriver {
    type IdInfo = ();
    type Data<'bound> = Binding;

    const ID_TABLE: pci::IdTable<Self::IdInfo> = &PCI_TABLE;

    fn probe<'bound>(
        pdev: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        pin_init::pin_init_scope(move || {
            // Before the device is touched, which another driver may want.
            let claim = Claim::take().inspect_err(|_| {
                dev_err!(
                    pdev,
                    "only one stopwatch device is supported, and /dev/stopwatch is another one; unbind that one first\n"
                )
            })?;
            let has_ports = pdev.resource_len(uapi::STOPWATCH_BAR_DOORBELLS)? != 0
                && enable_with_ports(pdev).is_ok();
            if !has_ports {
                pdev.enable_device_mem()?;
            }
            // Interrupts are messages, which are writes to the bus.
            pdev.set_master();

            let (irqs, device) =
                MsixHandlers::new(pdev, nr_cpu_ids(), c"stopwatch", move |vectors| {
                    let device = StopwatchDevice::new(pdev, has_ports, vectors)?;
                    Arc::pin_init(device, GFP_KERNEL)
                })?;

            Ok(try_pin_init!(Binding {
                _irqs: irqs,
                _: {
                    device.turn_on_features(pdev.as_ref())?;
                },
                _pm <- PmNotifier::new(device.clone()),
                _reboot <- RebootNotifier::new(device.clone()),
                scripts: Scripts::new(device.clone())?,
                _top_files: scripts.top_files()?,
                // Last, for a program may open it at once.
                _file <- MiscRegistration::new(
                    c"stopwatch",
                    Opened {
                        device: device.clone(),
                        scripts: scripts.clone(),
                    },
                ),
                device,
                _claim: claim,
            }))
        })
    }

    fn unbind<'bound>(_pdev: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        this.device.disconnect();
        this.scripts.close();
    }
}

kernel::module_pci_driver! {
    type: StopwatchDriver,
    name: "stopwatch",
    authors: ["The Stopwatch authors"],
    description: "Guest side of the paravirtual stopwatch",
    license: "GPL",
}
