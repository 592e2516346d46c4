//! A table by stream, in the order of their numbers.

use super::StreamId;

/// Room that an empty table keeps: most are soon used again.
const KEPT: usize = 8;

/// What there is of streams that are open, looked into several times for each frame. Numbers ascend, so
/// that what is new goes to the end; what ends moves those behind it, and they are no more than both
/// sides may have open.
#[derive(Debug)]
pub(super) struct ByStream<T>(Vec<(StreamId, T)>);

impl<T> ByStream<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the stream stands, or would.
    fn place(&self, stream: StreamId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&stream, |(listed, _)| *listed)
    }

    pub(super) fn find(&self, stream: StreamId) -> Option<&T> {
        let place = self.place(stream).ok()?;
        self.0.get(place).map(|(_, found)| found)
    }

    pub(super) fn find_mut(&mut self, stream: StreamId) -> Option<&mut T> {
        let place = self.place(stream).ok()?;
        self.0.get_mut(place).map(|(_, found)| found)
    }

    /// Puts `value` in the place of what there was of the stream.
    pub(super) fn insert(&mut self, stream: StreamId, value: T) {
        match self.place(stream) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (stream, value)),
        }
    }

    pub(super) fn remove(&mut self, stream: StreamId) -> Option<T> {
        let place = self.place(stream).ok()?;
        let (_, removed) = self.0.remove(place);
        if self.0.is_empty() {
            self.0.shrink_to(KEPT);
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &T)> {
        self.0.iter().map(|(stream, found)| (*stream, found))
    }

    /// All that there was.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (StreamId, T)> + use<T> {
        std::mem::take(&mut self.0).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_any_order_stands_in_the_order_of_numbers() {
        let mut table = ByStream::new();
        for number in [4, 1, 1000, 3, 2] {
            table.insert(StreamId(number), number);
        }
        table.insert(StreamId(3), 33);
        assert_eq!(table.remove(StreamId(1000)), Some(1000));
        assert_eq!(table.remove(StreamId(1000)), None);
        assert_eq!((table.find(StreamId(3)), table.len()), (Some(&33), 4));
        assert_eq!(table.find_mut(StreamId(5)), None);
        let numbers: Vec<u32> = table.iter().map(|(stream, _)| stream.0).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(table.take().map(|(_, value)| value).sum::<u32>(), 40);
        assert!(table.is_empty());
    }
}
