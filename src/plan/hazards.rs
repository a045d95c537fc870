//! Where barriers must stand: before a dispatch that reads or writes what an earlier one, since the last barrier, wrote,
//! or writes what an earlier one read. Decided on byte ranges, once, on plain data.

use super::{Command, Dispatch, Tensor};

/// Interleaves the dispatches, in order, with the fewest barriers. The first command is a barrier: the plan submitted
/// before may have written what this one reads.
pub fn with_barriers(dispatches: Vec<Dispatch>) -> Vec<Command> {
    let mut commands = vec![Command::Barrier];
    let mut since_barrier: Vec<(Tensor, bool)> = Vec::new();
    for dispatch in dispatches {
        let conflicts = dispatch.accesses().any(|(tensor, info)| {
            since_barrier.iter().any(|(earlier, wrote)| (info.writable || *wrote) && tensor.overlaps(earlier))
        });
        if conflicts {
            commands.push(Command::Barrier);
            since_barrier.clear();
        }
        since_barrier.extend(dispatch.accesses().map(|(tensor, info)| (tensor.clone(), info.writable)));
        commands.push(Command::Dispatch(dispatch));
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Kernel, OperandInfo, Region, Work};

    static COPY: Kernel = Kernel {
        name: "copy",
        family: "copy",
        defines: &[],
        spirv: &[],
        push_bytes: 16,
        operands: &[
            OperandInfo { name: "x", push_offset: 0, writable: false },
            OperandInfo { name: "y", push_offset: 8, writable: true },
        ],
        constants: &[],
        specialization: &[],
    };

    fn copy(from: u64, to: u64) -> Dispatch {
        Dispatch {
            kernel: &COPY,
            label: String::new(),
            specialization: vec![],
            operands: vec![Tensor::new(Region::Arena, from, 16), Tensor::new(Region::Arena, to, 16)],
            push: vec![0; 16],
            groups: [1, 1, 1],
            work: Work::default(),
            stages: vec![],
        }
    }

    fn shape(dispatches: Vec<Dispatch>) -> String {
        with_barriers(dispatches)
            .iter()
            .map(|command| if matches!(command, Command::Barrier) { '|' } else { 'd' })
            .collect()
    }

    #[test]
    fn independent_dispatches_share_a_barrier() {
        assert_eq!(shape(vec![copy(0, 16), copy(0, 32), copy(0, 48)]), "|ddd");
    }

    #[test]
    fn a_read_after_a_write_waits() {
        assert_eq!(shape(vec![copy(0, 16), copy(16, 32), copy(32, 48)]), "|d|d|d");
    }

    #[test]
    fn a_write_after_a_read_or_a_write_waits() {
        assert_eq!(shape(vec![copy(0, 16), copy(32, 0)]), "|d|d");
        assert_eq!(shape(vec![copy(0, 16), copy(32, 16)]), "|d|d");
    }

    #[test]
    fn a_partial_overlap_counts_and_neighbours_do_not() {
        assert_eq!(shape(vec![copy(0, 16), copy(24, 64)]), "|d|d");
        assert_eq!(shape(vec![copy(0, 16), copy(32, 64)]), "|dd");
    }
}
