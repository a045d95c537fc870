//! A Vulkan library that counts the calls of every entry point and passes them on to the system's loader. Built as a shared
//! library; `HESPER_VULKAN_LIBRARY` puts it between Hesper and Vulkan, and `tests/entry_points/main.rs` reads the counts.
//!
//! Each entry point that is asked for gets a thunk, which counts and jumps: so it need not know any of their signatures.

#![cfg(target_os = "linux")]

use libloading::{Library, Symbol};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

type Handle = *mut c_void;
type Address = *const c_void;
type GetProcAddr = unsafe extern "system" fn(Handle, *const c_char) -> Address;

const SLOTS: usize = 2048;
const THUNK_BYTES: usize = 32;

static COUNTS: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static TARGETS: [AtomicPtr<c_void>; SLOTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS];

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".text",
    ".balign 32",
    ".globl hesper_count_thunks",
    ".hidden hesper_count_thunks",
    "hesper_count_thunks:",
    ".set hesper_slot, 0",
    ".rept {slots}",
    ".balign 32",
    "lock incq {counts} + 8 * hesper_slot(%rip)",
    "jmp *{targets} + 8 * hesper_slot(%rip)",
    ".set hesper_slot, hesper_slot + 1",
    ".endr",
    slots = const SLOTS,
    counts = sym COUNTS,
    targets = sym TARGETS,
    options(att_syntax)
);

// Not atomic: two threads that call the same entry point at once may count as one.
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".text",
    ".balign 32",
    ".globl hesper_count_thunks",
    ".hidden hesper_count_thunks",
    "hesper_count_thunks:",
    ".set hesper_slot, 0",
    ".rept {slots}",
    ".balign 32",
    "adrp x16, {counts} + 8 * hesper_slot",
    "add x16, x16, :lo12:{counts} + 8 * hesper_slot",
    "ldr x17, [x16]",
    "add x17, x17, #1",
    "str x17, [x16]",
    "adrp x16, {targets} + 8 * hesper_slot",
    "ldr x16, [x16, :lo12:{targets} + 8 * hesper_slot]",
    "br x16",
    ".set hesper_slot, hesper_slot + 1",
    ".endr",
    slots = const SLOTS,
    counts = sym COUNTS,
    targets = sym TARGETS,
);

unsafe extern "C" {
    fn hesper_count_thunks();
}

/// Name and target of every thunk given out, in the order of their slots.
static GIVEN: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());

// SAFETY: the name is that of the system's Vulkan loader.
static LOADER: LazyLock<Library> =
    LazyLock::new(|| unsafe { Library::new("libvulkan.so.1") }.expect("a Vulkan loader"));

fn real(name: &[u8]) -> GetProcAddr {
    // SAFETY: both functions that are asked for here have this type.
    let symbol: Symbol<GetProcAddr> = unsafe { LOADER.get(name) }.expect("every loader exports it");
    *symbol
}

/// The thunk of an entry point, new or given out before.
fn thunk(name: &CStr, target: Address) -> Address {
    if target.is_null() {
        return target;
    }
    let name = name.to_string_lossy();
    let mut given = GIVEN.lock().expect("nothing panics while it holds the list");
    let known = given.iter().position(|(other, address)| *other == name && *address == target as usize);
    let slot = known.unwrap_or_else(|| {
        let slot = given.len();
        assert!(slot < SLOTS, "more than {SLOTS} entry points are asked for");
        TARGETS[slot].store(target.cast_mut(), Ordering::Release);
        given.push((name.into_owned(), target as usize));
        slot
    });
    (hesper_count_thunks as *const () as usize + slot * THUNK_BYTES) as Address
}

/// # Safety
/// As the specification of Vulkan says.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vkGetInstanceProcAddr(instance: Handle, name: *const c_char) -> Address {
    // SAFETY: the caller passes a terminated string and a live instance or null.
    let (name, target) = unsafe { (CStr::from_ptr(name), real(b"vkGetInstanceProcAddr\0")(instance, name)) };
    match name.to_bytes() {
        b"vkGetInstanceProcAddr" => vkGetInstanceProcAddr as *const () as Address,
        b"vkGetDeviceProcAddr" if !target.is_null() => vkGetDeviceProcAddr as *const () as Address,
        _ => thunk(name, target),
    }
}

/// # Safety
/// As the specification of Vulkan says.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vkGetDeviceProcAddr(device: Handle, name: *const c_char) -> Address {
    // SAFETY: as above, for a device.
    let (name, target) = unsafe { (CStr::from_ptr(name), real(b"vkGetDeviceProcAddr\0")(device, name)) };
    match name.to_bytes() {
        b"vkGetDeviceProcAddr" => vkGetDeviceProcAddr as *const () as Address,
        _ => thunk(name, target),
    }
}

/// Calls `each` with the name and count of every entry point that was asked for; a name may come more than once.
///
/// # Safety
/// `each` is called with terminated strings that live as long as the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hesper_count_each(
    each: unsafe extern "C" fn(*const c_char, u64, *mut c_void),
    state: *mut c_void,
) {
    let given = GIVEN.lock().expect("nothing panics while it holds the list");
    for ((name, _), count) in given.iter().zip(&COUNTS) {
        let name = std::ffi::CString::new(name.as_str()).expect("names hold no zero");
        // SAFETY: the caller vouches for `each` and `state`.
        unsafe { each(name.as_ptr(), count.load(Ordering::Acquire), state) };
    }
}
