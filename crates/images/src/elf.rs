//! As much of ELF as it takes to know what a program needs to start: its interpreter, and the name
//! under which a library is looked for.
//!
//! Little-endian 64-bit files only; any other reads as none.
//!
//! # Source
//! The System V ABI, "Object Files" and "Dynamic Linking".

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;

/// An ELF file in memory.
pub(crate) struct Elf<'a>(&'a [u8]);

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl<'a> Elf<'a> {
    /// None when `content` is no little-endian 64-bit ELF file.
    pub(crate) fn parse(content: &'a [u8]) -> Option<Elf<'a>> {
        // Magic, then class (2: 64 bits), then order (1: little-endian).
        content.starts_with(b"\x7fELF\x02\x01").then_some(Elf(content))
    }

    /// The program that loads this one; none for a static one.
    pub(crate) fn interpreter(&self) -> Option<&'a str> {
        let segment = self.segments().find(|segment| segment.kind == PT_INTERP)?;
        self.text(segment.offset)
    }

    /// The name under which other files ask for this library.
    pub(crate) fn soname(&self) -> Option<&'a str> {
        let dynamic = self.segments().find(|segment| segment.kind == PT_DYNAMIC)?;
        let entries = (0..dynamic.size / 16).map_while(|index| {
            let at = dynamic.offset + index * 16;
            Some((self.u64(at)?, self.u64(at + 8)?))
        });
        let (mut strings, mut name) = (None, None);
        for (tag, value) in entries {
            match tag {
                DT_STRTAB => strings = Some(value),
                DT_SONAME => name = Some(value),
                _ => {}
            }
        }
        let strings = self.offset_of(strings?)?;
        self.text(strings.checked_add(name?)?)
    }

    fn segments(&self) -> impl Iterator<Item = Segment> {
        let table = self.u64(32).unwrap_or(0);
        let (size, count) = (self.u16(54).unwrap_or(0), self.u16(56).unwrap_or(0));
        (0..u64::from(count)).map_while(move |index| {
            let at = table.checked_add(index * u64::from(size))?;
            Some(Segment {
                kind: self.u32(at)?,
                offset: self.u64(at + 8)?,
                address: self.u64(at + 16)?,
                size: self.u64(at + 32)?,
            })
        })
    }

    /// Where in the file an address is.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let holds = |segment: &Segment| {
            segment.kind == PT_LOAD
                && address.checked_sub(segment.address).is_some_and(|at| at < segment.size)
        };
        let segment = self.segments().find(holds)?;
        segment.offset.checked_add(address - segment.address)
    }

    fn text(&self, at: u64) -> Option<&'a str> {
        let from = self.0.get(usize::try_from(at).ok()?..)?;
        let end = from.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&from[..end]).ok()
    }

    fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.0.get(usize::try_from(at).ok()?..)?.first_chunk().copied()
    }

    fn u16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_names_its_interpreter() {
        let content = std::fs::read("/proc/self/exe").expect("it can be read");
        let elf = Elf::parse(&content).expect("it is one");
        if let Some(interpreter) = elf.interpreter() {
            assert!(std::path::Path::new(interpreter).exists(), "{interpreter}");
        }
    }

    #[test]
    fn garbage_is_none_and_not_a_crash() {
        assert!(Elf::parse(b"#!/bin/sh\n").is_none());
        let mut broken = b"\x7fELF\x02\x01".to_vec();
        broken.resize(64, 0xff);
        let elf = Elf::parse(&broken).expect("the magic is right");
        assert_eq!((elf.interpreter(), elf.soname()), (None, None));
    }
}
