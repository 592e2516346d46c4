//! Keeps of many inputs the smallest of each kind: `corpus TARGET FOLDER` reads what `make fuzz`
//! found in FOLDER and puts what is new or smaller into the corpus of the repository.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder] = arguments.as_slice() else {
        eprintln!("usage: corpus TARGET FOLDER");
        return ExitCode::from(2);
    };
    let Some(target) = isthmus_fuzz::find(name) else {
        let names = isthmus_fuzz::TARGETS.map(|target| target.name).join(", ");
        eprintln!("corpus: there is no target {name}; there are {names}");
        return ExitCode::from(2);
    };
    match keep(target, Path::new(folder)) {
        Ok(kept) => {
            println!("{name}: {kept} inputs are new or smaller");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("corpus: {folder}: {error}; run `make fuzz` first");
            ExitCode::FAILURE
        }
    }
}

fn keep(target: isthmus_fuzz::Target, folder: &Path) -> io::Result<usize> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    fs::create_dir_all(&corpus)?;
    let mut kept = 0;
    for entry in fs::read_dir(folder)? {
        let input = fs::read(entry?.path())?;
        let place = corpus.join((target.run)(&input));
        let smaller = match fs::read(&place) {
            Ok(before) => (input.len(), &input) < (before.len(), &before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if smaller {
            fs::write(&place, &input)?;
            kept += 1;
        }
    }
    Ok(kept)
}
