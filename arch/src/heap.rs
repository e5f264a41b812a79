//! The one heap: a buddy allocator over all free RAM, which is identity-mapped. It serves Rust's
//! `alloc`, page-table frames and guest memory alike.
//!
//! Locks: the heap's own spin lock, a leaf. Nobody allocates on the exit path.

#![expect(unsafe_code, reason = "implements the global allocator and hands out raw frames")]

extern crate alloc;

use core::alloc::Layout;
use core::ptr::NonNull;

/// Bytes in a frame.
pub const FRAME: u64 = 4096;

#[cfg(target_os = "none")]
mod global {
    use buddy_system_allocator::Heap;
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::NonNull;
    use spin::Mutex;

    /// Orders up to 2^40 bytes.
    pub static HEAP: Mutex<Heap<41>> = Mutex::new(Heap::empty());

    struct Global;

    // SAFETY: the buddy heap hands out disjoint blocks of the requested layout; the lock makes it
    // usable from all cores. Root mode runs with IF=0 and the NMI handler does not allocate, so
    // no core can wait for itself.
    unsafe impl GlobalAlloc for Global {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            HEAP.lock().alloc(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            if let Some(block) = NonNull::new(ptr) {
                // SAFETY: the caller returns a block that `alloc` gave it.
                unsafe { HEAP.lock().dealloc(block, layout) };
            }
        }
    }

    #[global_allocator]
    static GLOBAL: Global = Global;
}

/// Gives a range of RAM to the heap. For boot alone, which has cut it out of the memory map: the
/// range is free and mapped at its physical address. Does nothing on a host.
pub fn give(range: core::ops::Range<u64>) {
    let start = range.start.next_multiple_of(FRAME);
    let end = range.end & !(FRAME - 1);
    #[cfg(target_os = "none")]
    if start < end {
        // SAFETY: as the caller promises; the allocator is the range's only user from now on.
        unsafe { global::HEAP.lock().add_to_heap(start as usize, end as usize) };
    }
    #[cfg(not(target_os = "none"))]
    let _ = (start, end);
}

/// Bytes of RAM in the heap and bytes handed out.
pub fn usage() -> (usize, usize) {
    #[cfg(target_os = "none")]
    {
        let heap = global::HEAP.lock();
        (heap.stats_total_bytes(), heap.stats_alloc_actual())
    }
    #[cfg(not(target_os = "none"))]
    (0, 0)
}

/// A block of zeroed physical memory, kept for good.
#[derive(Debug)]
pub struct Block {
    start: NonNull<u8>,
    len: u64,
}

// SAFETY: a block is plain memory with one owner.
unsafe impl Send for Block {}
// SAFETY: nobody holds references into a block; all access is by copies of bytes, whose contents
// others, guests above all, may change at any time: they are never trusted.
unsafe impl Sync for Block {}

impl Block {
    /// Physical address (memory is identity-mapped).
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// True for an empty block (there is none).
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at(&self, offset: u64, size: u64) -> *mut u8 {
        assert!(offset.checked_add(size).is_some_and(|end| end <= self.len), "block bounds");
        // SAFETY: the offset was checked against the block's length.
        unsafe { self.start.as_ptr().add(offset as usize) }
    }

    /// Reads eight aligned bytes at a byte offset.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    pub fn read_u64(&self, offset: u64) -> u64 {
        // SAFETY: `at` checked the bounds; callers keep the alignment.
        unsafe { self.at(offset, 8).cast::<u64>().read_volatile() }
    }

    /// Writes eight aligned bytes at a byte offset.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    pub fn write_u64(&self, offset: u64, value: u64) {
        // SAFETY: `at` checked the bounds; callers keep the alignment.
        unsafe { self.at(offset, 8).cast::<u64>().write_volatile(value) }
    }

    /// Writes four aligned bytes at a byte offset.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    pub fn write_u32(&self, offset: u64, value: u32) {
        // SAFETY: `at` checked the bounds; callers keep the alignment.
        unsafe { self.at(offset, 4).cast::<u32>().write_volatile(value) }
    }

    /// Reads bytes at a byte offset.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    #[inline]
    pub fn read_bytes(&self, offset: u64, bytes: &mut [u8]) {
        let from = self.at(offset, bytes.len() as u64);
        // SAFETY: `at` checked the bounds; the slice is not inside the block, since nobody holds
        // Rust references into blocks.
        unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// The eight aligned bytes that hold a byte offset; `None` outside the block.
    #[inline(always)]
    pub fn get_u64(&self, offset: u64) -> Option<u64> {
        let offset = offset & !7;
        if offset >= self.len {
            return None;
        }
        // SAFETY: start and length of a block are multiples of 8 (see `block`), so eight bytes at an
        // aligned offset below its length are in it.
        Some(unsafe { self.start.as_ptr().add(offset as usize).cast::<u64>().read_volatile() })
    }

    /// Reads bytes at a byte offset; false, and nothing read, if one of them is outside the block.
    #[inline(always)]
    pub fn get_bytes(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let inside = self.len.checked_sub(bytes.len() as u64).is_some_and(|last| offset <= last);
        if inside {
            // SAFETY: the bounds were checked; the slice is not inside the block, since nobody holds
            // Rust references into blocks.
            unsafe {
                let from = self.start.as_ptr().add(offset as usize);
                core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
            }
        }
        inside
    }

    /// Writes bytes at a byte offset.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    pub fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let to = self.at(offset, bytes.len() as u64);
        // SAFETY: `at` checked the bounds; the slice is not inside the block, since nobody holds
        // Rust references into blocks.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Writes the cache line of a byte offset back to memory, for hardware that does not snoop.
    ///
    /// # Panics
    /// On an offset outside the block: a bug of ours.
    pub fn write_back_at(&self, offset: u64) {
        crate::cpu::write_back_line(self.at(offset, 1));
    }

    /// Writes the whole block back to memory.
    pub fn write_back(&self) {
        // Lines have 64 bytes in every CPU so far; a smaller step would only take longer.
        (0..self.len).step_by(64).for_each(|offset| self.write_back_at(offset));
    }

    /// Fills the block with a byte.
    pub fn fill(&self, byte: u8) {
        // SAFETY: the whole block belongs to us.
        unsafe { core::ptr::write_bytes(self.start.as_ptr(), byte, self.len as usize) }
    }
}

/// Allocates zeroed memory of a power-of-two size of 8 bytes or more, aligned to its size. `None`
/// if there is none.
pub fn block(size: u64) -> Option<Block> {
    let layout = Layout::from_size_align(size as usize, size as usize).ok()?;
    if size < 8 {
        return None;
    }
    // SAFETY: the layout has a size above zero.
    let start = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })?;
    Some(Block { start, len: size })
}

/// As [`block`], below `limit`; blocks that lie above it are offered to nobody meanwhile and given back. For boot, where
/// nobody else allocates. `None` on a host, whose memory has no end.
pub fn block_below(size: u64, limit: u64) -> Option<Block> {
    let bounded = cfg!(target_os = "none") && size >= 8;
    let layout = Layout::from_size_align(size as usize, size as usize).ok().filter(|_| bounded)?;
    let mut above = alloc::vec::Vec::new();
    let found = loop {
        // SAFETY: the layout has a size above zero.
        let Some(start) = NonNull::new(unsafe { alloc::alloc::alloc(layout) }) else { break None };
        if (start.as_ptr() as u64).checked_add(size).is_some_and(|end| end <= limit) {
            break Some(Block { start, len: size });
        }
        above.push(start);
    };
    for start in above {
        // SAFETY: it was allocated above with this layout.
        unsafe { alloc::alloc::dealloc(start.as_ptr(), layout) };
    }
    if let Some(block) = &found {
        block.fill(0);
    }
    found
}

/// Allocates one zeroed frame.
pub fn frame() -> Option<Block> {
    block(FRAME)
}
