//! A disk that writes down what is asked of it, and what may be left of that when the power goes.
//!
//! Pessimistic where file systems differ: bytes of a file are certain only once the file is synced, a name only once its directory is. What is
//! not certain is there, not there, half there, or there as zeros, each thing for itself. Within a directory a rename is one thing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use vft::checkpoint::disk::{Disk, Real};

/// A call, with paths below the root.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    MakeDir(PathBuf),
    /// A new file, or an old one made empty.
    Create(PathBuf),
    Append(PathBuf, Vec<u8>),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    /// No call: the run counts on all that came before.
    Done(usize),
}

/// Does what is asked below `root`, syncs apart, and writes it down.
pub(crate) struct Recorder {
    root: PathBuf,
    pub(crate) calls: RefCell<Vec<Call>>,
}

impl Recorder {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into(), calls: RefCell::default() }
    }

    pub(crate) fn note(&self, call: Call) {
        self.calls.borrow_mut().push(call);
    }

    fn below(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap().into()
    }

    /// Appends to a file, as records are.
    pub(crate) fn append(&self, file: &Path, bytes: &[u8]) {
        if !file.exists() {
            self.note(Call::Create(self.below(file)));
        }
        let mut open = fs::File::options().append(true).create(true).open(file).unwrap();
        io::Write::write_all(&mut open, bytes).unwrap();
        self.note(Call::Append(self.below(file), bytes.into()));
    }
}

impl Disk for Recorder {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(Call::MakeDir(self.below(dir)));
        Real.make_dir(dir)
    }

    fn write_parts(&self, file: &Path, parts: &[&[u8]]) -> io::Result<()> {
        self.note(Call::Create(self.below(file)));
        let bytes = parts.concat();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for part in [first, second] {
            self.note(Call::Append(self.below(file), part.into()));
        }
        Real.write(file, &bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.note(Call::Sync(self.below(path)));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Real.rename(from, to)?;
        self.note(Call::Rename(self.below(from), self.below(to)));
        Ok(())
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        self.note(Call::RemoveFile(self.below(file)));
        Real.remove_file(file)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.note(Call::RemoveDir(self.below(dir)));
        Real.remove_dir(dir)
    }
}

/// Names that come and go at once.
type Change = Vec<(String, Option<usize>)>;

#[derive(Debug, Clone)]
enum Node {
    File { certain: Vec<u8>, now: Vec<u8> },
    Dir { certain: BTreeMap<String, usize>, now: BTreeMap<String, usize>, pending: Vec<Change> },
}

/// A tree: the bytes of a file, `None` for a directory.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What becomes of the things that are not certain: 0 lost, 1 kept, 2 half, 3 zeros; of a name, whether that is odd.
pub(crate) type Fate<'a> = &'a mut dyn FnMut() -> u8;

/// A file system in memory that knows what is certain.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    nodes: Vec<Node>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Self::dir()] }
    }

    /// A file system that holds `tree`, all of it certain.
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut model = Self::new();
        for (path, bytes) in tree {
            match bytes {
                None => model.apply(&Call::MakeDir(path.clone())),
                Some(bytes) => {
                    model.apply(&Call::Create(path.clone()));
                    model.apply(&Call::Append(path.clone(), bytes.clone()));
                    model.apply(&Call::Sync(path.clone()));
                }
            }
            model.apply(&Call::Sync(path.parent().unwrap().into()));
        }
        model
    }

    fn dir() -> Node {
        Node::Dir { certain: BTreeMap::new(), now: BTreeMap::new(), pending: Vec::new() }
    }

    fn find(&self, path: &Path) -> usize {
        path.iter().fold(0, |at, name| match &self.nodes[at] {
            Node::Dir { now, .. } => now[name.to_str().unwrap()],
            Node::File { .. } => panic!("{} is below a file", path.display()),
        })
    }

    fn change(&mut self, dir: &Path, change: Change) {
        let at = self.find(dir);
        let Node::Dir { now, pending, .. } = &mut self.nodes[at] else { panic!("no directory") };
        put(now, &change);
        pending.push(change);
    }

    fn name(path: &Path) -> String {
        path.file_name().unwrap().to_str().unwrap().into()
    }

    fn add(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.change(path.parent().unwrap(), vec![(Self::name(path), Some(at))]);
    }

    fn has(&self, path: &Path) -> bool {
        let at = self.find(path.parent().unwrap());
        matches!(&self.nodes[at], Node::Dir { now, .. } if now.contains_key(&Self::name(path)))
    }

    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::MakeDir(path) => self.add(path, Self::dir()),
            Call::Create(path) if self.has(path) => {
                let at = self.find(path);
                let Node::File { now, .. } = &mut self.nodes[at] else { panic!("no file") };
                now.clear();
            }
            Call::Create(path) => {
                self.add(path, Node::File { certain: Vec::new(), now: Vec::new() });
            }
            Call::Append(path, bytes) => {
                let at = self.find(path);
                let Node::File { now, .. } = &mut self.nodes[at] else { panic!("no file") };
                now.extend(bytes);
            }
            Call::Sync(path) => {
                let at = self.find(path);
                match &mut self.nodes[at] {
                    Node::File { certain, now } => certain.clone_from(now),
                    Node::Dir { certain, now, pending } => {
                        certain.clone_from(now);
                        pending.clear();
                    }
                }
            }
            Call::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "a rename stays in its directory");
                let node = self.find(from);
                let change = vec![(Self::name(from), None), (Self::name(to), Some(node))];
                self.change(from.parent().unwrap(), change);
            }
            Call::RemoveFile(path) | Call::RemoveDir(path) => {
                self.change(path.parent().unwrap(), vec![(Self::name(path), None)]);
            }
            Call::Done(_) => {}
        }
    }

    /// How many things are not certain.
    pub(crate) fn open(&self) -> usize {
        let of = |node: &Node| match node {
            Node::File { certain, now } => usize::from(certain != now),
            Node::Dir { pending, .. } => pending.len(),
        };
        self.nodes.iter().map(of).sum()
    }

    /// What is left when the power goes now.
    pub(crate) fn after_crash(&self, fate: Fate<'_>) -> Tree {
        let left: Vec<Node> = self
            .nodes
            .iter()
            .map(|node| match node {
                Node::File { certain, now } if certain == now => node.clone(),
                Node::File { certain, now } => {
                    let bytes = match fate() {
                        0 => certain.clone(),
                        1 => now.clone(),
                        2 => now[..certain.len().min(now.len()).midpoint(now.len())].to_vec(),
                        _ => {
                            let known = certain.len().min(now.len());
                            let mut bytes = now.clone();
                            bytes[known..].fill(0);
                            bytes
                        }
                    };
                    Node::File { certain: bytes, now: Vec::new() }
                }
                Node::Dir { certain, pending, .. } => {
                    let mut names = certain.clone();
                    for change in pending {
                        if fate() % 2 == 1 {
                            put(&mut names, change);
                        }
                    }
                    Node::Dir { certain: names, now: BTreeMap::new(), pending: Vec::new() }
                }
            })
            .collect();
        let mut tree = Tree::new();
        collect(&left, 0, Path::new(""), &mut tree);
        tree
    }
}

fn put(names: &mut BTreeMap<String, usize>, change: &Change) {
    for (name, node) in change {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}

fn collect(nodes: &[Node], at: usize, path: &Path, tree: &mut Tree) {
    let Node::Dir { certain, .. } = &nodes[at] else { return };
    for (name, node) in certain {
        let path = path.join(name);
        match &nodes[*node] {
            Node::File { certain, .. } => drop(tree.insert(path, Some(certain.clone()))),
            Node::Dir { .. } => {
                tree.insert(path.clone(), None);
                collect(nodes, *node, &path, tree);
            }
        }
    }
}

/// Writes `tree` below `root`, which must be empty.
pub(crate) fn lay_out(tree: &Tree, root: &Path) {
    for (path, bytes) in tree {
        match bytes {
            None => fs::create_dir(root.join(path)).unwrap(),
            Some(bytes) => fs::write(root.join(path), bytes).unwrap(),
        }
    }
}
