//! Tensors as a safetensors file, from where they lie: what may be as large as an optimizer's state is not copied to be written.
//!
//! A file is the header's length (8 bytes, little endian), the header padded with spaces to whole 8 bytes, the values.

use super::atomic::io_problem;
use super::disk::Disk;
use crate::error::{Problem, Result};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Writes named tensors, with `metadata` where there is some: the bytes of `safetensors::serialize`, by falling dtype, then by name.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(
    disk: &dyn Disk,
    file: &Path,
    mut tensors: Vec<(String, TensorView<'_>)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    tensors.sort_by(|(a, x), (b, y)| y.dtype().cmp(&x.dtype()).then(a.cmp(b)));
    let places = tensors
        .iter()
        .map(|(name, view)| (name.as_str(), view.dtype(), view.shape(), view.data().len()));
    let header = header(places, metadata)
        .map_err(|e| Problem::in_file(file, format!("cannot be written: {e}")))?;
    let values = tensors.iter().map(|(_, view)| view.data());
    let parts: Vec<&[u8]> = std::iter::once(&header[..]).chain(values).collect();
    disk.write_parts(file, &parts).map_err(|e| io_problem(file, &e))
}

/// What a file begins with whose tensors, given as name, dtype, shape and bytes, lie one after another: the header's length and the header.
///
/// # Errors
/// When a tensor's bytes are not those of its dtype and shape.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], usize)>,
    metadata: Option<HashMap<String, String>>,
) -> anyhow::Result<Vec<u8>> {
    let mut end = 0;
    let mut place = |(name, dtype, shape, bytes): (&str, Dtype, &[usize], usize)| {
        let start = end;
        end += bytes;
        let shape = shape.to_vec();
        (name.to_owned(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    };
    let places = tensors.map(&mut place).collect();
    let json = serde_json::to_vec(&Metadata::new(metadata, places)?)?;
    let length = json.len().next_multiple_of(8);
    let mut header = (length as u64).to_le_bytes().to_vec();
    header.extend(json);
    header.resize(8 + length, b' ');
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::disk::Real;
    use std::cell::RefCell;
    use std::io;

    fn views<'a>(f32: &'a [u8], u8: &'a [u8]) -> Vec<(String, TensorView<'a>)> {
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data);
        vec![
            ("b".to_owned(), view(Dtype::U8, &[3], u8).unwrap()),
            ("c".to_owned(), view(Dtype::F32, &[2, 1], f32).unwrap()),
            ("a".to_owned(), view(Dtype::F32, &[2], f32).unwrap()),
            ("none".to_owned(), view(Dtype::F32, &[0], &[]).unwrap()),
        ]
    }

    #[test]
    fn the_bytes_are_those_of_safetensors() {
        let (f32, u8) = ([1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]);
        let metadata = || Some(HashMap::from([("format".to_owned(), "pt".to_owned())]));
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&Real, file.path(), views(&f32, &u8), metadata()).unwrap();
        let wanted = safetensors::serialize(views(&f32, &u8), metadata()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), wanted);
    }

    /// Where the parts lie that a file is made of.
    #[derive(Default)]
    struct Places(RefCell<Vec<*const u8>>);

    impl Disk for Places {
        fn write_parts(&self, _: &Path, parts: &[&[u8]]) -> io::Result<()> {
            self.0.borrow_mut().extend(parts.iter().map(|part| part.as_ptr()));
            Ok(())
        }

        fn make_dir(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn remove_file(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn remove_dir(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn values_are_written_from_where_they_lie() {
        let (f32, u8) = ([1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]);
        let places = Places::default();
        write(&places, Path::new("x"), views(&f32, &u8)[..3].to_vec(), None).unwrap();
        let wanted = [f32.as_ptr(), f32.as_ptr(), u8.as_ptr()];
        assert_eq!(places.0.borrow()[1..], wanted);
    }
}
