use artifact::context::Context;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let out = std::path::Path::new(&args[1]);
    std::fs::create_dir_all(out)?;
    let n = |i: usize, d: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(d);
    let config = synth::Config {
        train: n(2, 2000),
        validation: n(3, 100),
        test: n(4, 200),
        text: n(5, 10000),
        seed: n(6, 1) as u64,
        ..Default::default()
    };
    let t = std::time::Instant::now();
    println!("{}", synth::run(&config, out, &Context::quiet())?);
    println!("{:?}", t.elapsed());
    Ok(())
}
