//! Two programs that cost next to nothing, as bytes: a program that uses the C library spends far more
//! time in the start of that library than naq spends on the job.
//!
//! Each is an ELF file of one page with a few instructions, which the kernel starts without a loader.

/// Address at which the file is mapped, whose first bytes are its headers.
const BASE: u64 = 0x40_0000;

/// Size of the headers: the file's, and two of segments.
const HEADERS_BYTES: usize = 64 + 2 * 56;

/// A program that exits with 0. `None` if this is not known for the architecture.
pub(super) fn nothing() -> Option<Vec<u8>> {
    Some(elf(&Machine::this()?.exit()))
}

/// A program that writes the time at which it runs to standard output: seconds and nanoseconds since the
/// Unix epoch, eight bytes each, the lowest first.
pub(super) fn clock() -> Option<Vec<u8>> {
    let machine = Machine::this()?;
    Some(elf(&[machine.write_time(), machine.exit()].concat()))
}

/// The time that [`clock`] has written, in nanoseconds since the Unix epoch.
pub(super) fn read_clock(output: &[u8]) -> Option<i64> {
    let (seconds, rest) = output.split_first_chunk::<8>()?;
    let (nanoseconds, _) = rest.split_first_chunk::<8>()?;
    let seconds = i64::from_le_bytes(*seconds).checked_mul(1_000_000_000)?;
    seconds.checked_add(i64::from_le_bytes(*nanoseconds))
}

#[derive(Clone, Copy)]
enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    fn this() -> Option<Machine> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Machine::X86_64),
            "aarch64" => Some(Machine::Aarch64),
            _ => None,
        }
    }

    /// The number of the architecture in the file's header.
    fn elf_number(self) -> u16 {
        match self {
            Machine::X86_64 => 62,
            Machine::Aarch64 => 183,
        }
    }

    /// `exit_group(0)`.
    fn exit(self) -> Vec<u8> {
        match self {
            Machine::X86_64 => vec![
                0x31, 0xFF, // xor edi, edi
                0xB8, 0xE7, 0, 0, 0, // mov eax, 231
                0x0F, 0x05, // syscall
            ],
            Machine::Aarch64 => words(&[
                0xD280_0000, // mov x0, 0
                0xD280_0BC8, // mov x8, 94
                0xD400_0001, // svc 0
            ]),
        }
    }

    /// `clock_gettime(CLOCK_REALTIME, stack)`, then `write(1, stack, 16)`.
    fn write_time(self) -> Vec<u8> {
        match self {
            Machine::X86_64 => vec![
                0x48, 0x83, 0xEC, 0x10, // sub rsp, 16
                0x31, 0xFF, // xor edi, edi
                0x48, 0x89, 0xE6, // mov rsi, rsp
                0xB8, 0xE4, 0, 0, 0, // mov eax, 228
                0x0F, 0x05, // syscall
                0xBF, 0x01, 0, 0, 0, // mov edi, 1
                0x48, 0x89, 0xE6, // mov rsi, rsp
                0xBA, 0x10, 0, 0, 0, // mov edx, 16
                0xB8, 0x01, 0, 0, 0, // mov eax, 1
                0x0F, 0x05, // syscall
            ],
            Machine::Aarch64 => words(&[
                0xD100_43FF, // sub sp, sp, 16
                0xD280_0000, // mov x0, 0
                0x9100_03E1, // mov x1, sp
                0xD280_0E28, // mov x8, 113
                0xD400_0001, // svc 0
                0xD280_0020, // mov x0, 1
                0x9100_03E1, // mov x1, sp
                0xD280_0202, // mov x2, 16
                0xD280_0808, // mov x8, 64
                0xD400_0001, // svc 0
            ]),
        }
    }
}

fn words(instructions: &[u32]) -> Vec<u8> {
    let bytes = instructions.iter().map(|word| word.to_le_bytes());
    bytes.flatten().collect()
}

/// An executable file with this code.
fn elf(code: &[u8]) -> Vec<u8> {
    let machine = Machine::this().map_or(0, Machine::elf_number);
    let size = (HEADERS_BYTES + code.len()) as u64;
    let mut file = Vec::new();
    // 64 bits, the lowest byte first, version 1
    file.extend_from_slice(b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2_u16.to_le_bytes()); // an executable at a fixed address
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend((BASE + HEADERS_BYTES as u64).to_le_bytes()); // where it begins
    file.extend(64_u64.to_le_bytes()); // the segments follow this header
    file.extend(0_u64.to_le_bytes()); // no sections
    file.extend(0_u32.to_le_bytes());
    for number in [64_u16, 56, 2, 0, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    // loaded, readable and executable: the whole file
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    for number in [0, BASE, BASE, size, size, 0x1_0000] {
        file.extend(number.to_le_bytes());
    }
    // the stack, which is not executable
    file.extend(0x6474_E551_u32.to_le_bytes());
    file.extend(6_u32.to_le_bytes());
    for number in [0_u64, 0, 0, 0, 0, 16] {
        file.extend(number.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_have_the_size_that_the_entry_point_assumes() {
        assert_eq!(elf(&[]).len(), HEADERS_BYTES);
    }

    #[test]
    fn the_time_is_read_as_the_program_writes_it() {
        let output = [7_i64.to_le_bytes(), 5_i64.to_le_bytes()].concat();
        assert_eq!(read_clock(&output), Some(7_000_000_005));
        assert_eq!(read_clock(&output[..15]), None);
    }
}
