//! Places jobs and their dependencies on a plane: a job is to the right of the jobs that it depends on.

/// Width of a job, in pixels.
pub(super) const NODE_WIDTH: u32 = 176;

/// Height of a job, in pixels.
pub(super) const NODE_HEIGHT: u32 = 32;

/// Space between two columns, in pixels. Edges need it.
const COLUMN_GAP: u32 = 56;

/// Space between two jobs of a column, in pixels.
const ROW_GAP: u32 = 12;

/// Space around the whole, in pixels.
const MARGIN: u32 = 4;

/// How often the columns are sorted by the jobs on their left and on their right.
const SWEEPS: usize = 4;

/// The place of a job: its left upper corner, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) x: u32,
    pub(super) y: u32,
}

/// The places of all jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) width: u32,
    pub(super) height: u32,
    /// For each job, in the order of the input.
    pub(super) places: Vec<Place>,
    /// From a job to one that depends on it.
    pub(super) edges: Vec<(usize, usize)>,
}

impl Layout {
    /// The curve of an edge, as SVG writes paths.
    pub(super) fn path(&self, (from, to): (usize, usize)) -> String {
        let of = |node: usize| self.places.get(node).copied().unwrap_or_default();
        let (from, to) = (of(from), of(to));
        let middle = NODE_HEIGHT / 2;
        let (x1, y1) = (from.x + NODE_WIDTH, from.y + middle);
        let (x2, y2) = (to.x, to.y + middle);
        let bend = COLUMN_GAP / 2;
        format!(
            "M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}",
            x1 + bend,
            x2.saturating_sub(bend)
        )
    }
}

/// Places jobs. `depends_on` has for each job the numbers of those that it depends on. A number that is not of an
/// earlier job is ignored, so that there are no circles.
pub(super) fn layout(depends_on: &[Vec<usize>]) -> Layout {
    let edges: Vec<(usize, usize)> = depends_on
        .iter()
        .enumerate()
        .flat_map(|(to, from)| from.iter().map(move |from| (*from, to)))
        .filter(|(from, to)| from < to)
        .collect();
    let mut column_of = vec![0_usize; depends_on.len()];
    for (from, to) in &edges {
        // edges are in the order of the jobs that they lead to, so `from` has its final column
        column_of[*to] = column_of[*to].max(column_of[*from] + 1);
    }
    let column_count = column_of.iter().max().map_or(0, |last| last + 1);
    let mut columns = vec![Vec::new(); column_count];
    for (node, column) in column_of.iter().enumerate() {
        columns[*column].push(node);
    }
    let mut row_of = vec![0_usize; depends_on.len()];
    number_rows(&columns, &mut row_of);
    for sweep in 0..SWEEPS {
        let to_the_right = sweep % 2 == 0;
        for at in 0..column_count {
            let column = match to_the_right {
                true => at,
                false => column_count - 1 - at,
            };
            sort_column(&mut columns[column], &edges, &row_of, to_the_right);
            number_rows(&columns[column..=column], &mut row_of);
        }
    }
    place(&columns, depends_on.len(), edges)
}

fn number_rows(columns: &[Vec<usize>], row_of: &mut [usize]) {
    for column in columns {
        for (row, node) in column.iter().enumerate() {
            row_of[*node] = row;
        }
    }
}

/// Sorts a column by the average row of the neighbours on one side, so that few edges cross. Jobs without such
/// neighbours keep their row.
fn sort_column(
    column: &mut [usize],
    edges: &[(usize, usize)],
    row_of: &[usize],
    by_the_left: bool,
) {
    // in thousandths of a row, because numbers with fractions have no order
    let average = |node: usize| {
        let (mut sum, mut count) = (0, 0);
        for (from, to) in edges {
            let neighbour = match by_the_left {
                true if *to == node => *from,
                false if *from == node => *to,
                _ => continue,
            };
            sum += row_of[neighbour] * 1_000;
            count += 1;
        }
        match count {
            0 => row_of[node] * 1_000,
            count => sum / count,
        }
    };
    let mut keyed: Vec<(usize, usize)> =
        column.iter().map(|node| (average(*node), *node)).collect();
    keyed.sort_by_key(|(average, node)| (*average, row_of[*node]));
    for (slot, (_, node)) in column.iter_mut().zip(keyed) {
        *slot = node;
    }
}

fn place(columns: &[Vec<usize>], nodes: usize, edges: Vec<(usize, usize)>) -> Layout {
    let pixels = |count: usize, size: u32, gap: u32| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        count.saturating_mul(size + gap).saturating_sub(gap)
    };
    let rows_max = columns.iter().map(Vec::len).max().unwrap_or(0);
    let height = pixels(rows_max, NODE_HEIGHT, ROW_GAP);
    let mut places = vec![Place::default(); nodes];
    let mut x = MARGIN;
    for column in columns {
        let own = pixels(column.len(), NODE_HEIGHT, ROW_GAP);
        let mut y = MARGIN + (height - own) / 2;
        for node in column {
            places[*node] = Place { x, y };
            y += NODE_HEIGHT + ROW_GAP;
        }
        x += NODE_WIDTH + COLUMN_GAP;
    }
    Layout {
        width: pixels(columns.len(), NODE_WIDTH, COLUMN_GAP) + 2 * MARGIN,
        height: height + 2 * MARGIN,
        places,
        edges,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_diamond_has_three_columns() {
        let layout = layout(&[vec![], vec![0], vec![0], vec![1, 2]]);
        let columns: Vec<u32> = layout.places.iter().map(|place| place.x).collect();
        let step = NODE_WIDTH + COLUMN_GAP;
        assert_eq!(
            columns,
            [MARGIN, MARGIN + step, MARGIN + step, MARGIN + 2 * step]
        );
        // the first and the last are in the middle of the column with two
        assert_eq!(layout.places[0].y, layout.places[3].y);
        assert!(layout.places[1].y < layout.places[0].y);
        assert_eq!(layout.edges, [(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(layout.path((0, 1)), "M180 42C208 42 208 20 236 20");
    }

    #[test]
    fn edges_do_not_cross_if_another_order_avoids_it() {
        // two chains whose second jobs come in the opposite order
        let layout = layout(&[vec![], vec![], vec![1], vec![0]]);
        assert_eq!(layout.places[0].y, layout.places[3].y);
        assert_eq!(layout.places[1].y, layout.places[2].y);
    }

    #[test]
    fn nothing_has_no_size() {
        let empty = layout(&[]);
        assert_eq!((empty.width, empty.places.len()), (2 * MARGIN, 0));
    }

    proptest! {
        #[test]
        fn jobs_do_not_overlap_and_are_right_of_what_they_depend_on(
            input in proptest::collection::vec(proptest::collection::vec(0usize..40, 0..4), 0..40),
        ) {
            let layout = layout(&input);
            prop_assert_eq!(layout.places.len(), input.len());
            for (at, one) in layout.places.iter().enumerate() {
                prop_assert!(one.x + NODE_WIDTH + MARGIN <= layout.width);
                prop_assert!(one.y + NODE_HEIGHT + MARGIN <= layout.height);
                for other in &layout.places[at + 1..] {
                    prop_assert!(one.x != other.x || one.y.abs_diff(other.y) >= NODE_HEIGHT + ROW_GAP);
                }
            }
            let expected: usize = input.iter().enumerate().map(|(to, from)| from.iter().filter(|from| **from < to).count()).sum();
            prop_assert_eq!(layout.edges.len(), expected);
            for (from, to) in &layout.edges {
                prop_assert!(layout.places[*from].x + NODE_WIDTH + COLUMN_GAP <= layout.places[*to].x);
            }
        }
    }
}
