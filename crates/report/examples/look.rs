fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let out = std::path::PathBuf::from(&args[0]);
    std::fs::create_dir_all(&out).unwrap();
    let mut config = report::ReportConfig::default();
    let mut files = Vec::new();
    for arg in &args[1..] {
        if let Some((a, b)) = arg.split_once('=') {
            match a {
                "budget" => config.budget = Some(b.parse().unwrap()),
                "targets" => config.targets = b.split(',').map(String::from).collect(),
                "draws" => config.draws = b.parse().unwrap(),
                _ => {
                    config.map.insert(a.into(), b.into());
                }
            }
        } else {
            files.push(arg.into())
        }
    }
    let start = std::time::Instant::now();
    let summary = report::run(&config, &files, &out, &artifact::context::Context::quiet()).unwrap();
    eprintln!("{:?}", start.elapsed());
    for f in &summary.findings {
        println!("[{}] {} | {}: {}", f.verdict, f.about, f.topic, f.text);
    }
    for n in &summary.notes {
        println!("note: {n}");
    }
}
