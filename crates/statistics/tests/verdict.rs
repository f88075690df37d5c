//! The noise flag: what decides it, and how often it is wrong on pure noise.

#[path = "common/mod.rs"]
mod planted;

use planted::{Planted, Random, key};
use rayon::prelude::*;
use statistics::{
    Evidence, Interval, Options, Reason, RunSpread, Runs, Statistic, Unavailable, Verdict,
    benjamini_hochberg, constant_gap, flag, holm, transfer_ratio,
};

const CLEAR: Evidence = Evidence {
    value: 0.10,
    interval: Ok(Interval { low: 0.06, high: 0.14 }),
    p_adjusted: Some(0.001),
    seeds: 3,
    run_threshold: None,
    smallest_detectable: Some(0.05),
};

fn verdict(evidence: &Evidence) -> Verdict {
    flag(evidence, 0.05).verdict
}

#[test]
fn each_part_of_the_evidence_can_decide() {
    assert_eq!(verdict(&CLEAR), Verdict::Clear);
    // An interval without 0 is not enough if many differences were looked at.
    let adjusted = Evidence { p_adjusted: Some(0.2), ..CLEAR };
    let found = flag(&adjusted, 0.05);
    assert_eq!(found.verdict, Verdict::WithinNoise);
    assert_eq!(found.reasons[0], Reason::LargeAfterAdjusting(0.2));
    // Items alone say nothing of another run, unless runs of other settings do.
    let one_run = Evidence { seeds: 1, ..CLEAR };
    assert_eq!(verdict(&one_run), Verdict::OneRun);
    let small_spread = Evidence { run_threshold: Some(0.04), ..one_run.clone() };
    assert_eq!(verdict(&small_spread), Verdict::Clear);
    let large_spread = Evidence { run_threshold: Some(0.12), ..one_run };
    let found = flag(&large_spread, 0.05);
    assert_eq!(found.verdict, Verdict::WithinNoise);
    assert_eq!(found.reasons[0], Reason::WithinRunSpread(0.12));
    // Neither items nor runs: nothing to judge by, or the spread of other runs alone.
    let reason = Unavailable::OneItem;
    let bare = Evidence { interval: Err(reason.clone()), p_adjusted: None, seeds: 1, ..CLEAR };
    let found = flag(&bare, 0.05);
    assert_eq!((found.verdict, &found.reasons[0]), (Verdict::Unknown, &Reason::NoInterval(reason)));
    assert_eq!(verdict(&Evidence { run_threshold: Some(0.02), ..bare.clone() }), Verdict::Clear);
    assert_eq!(verdict(&Evidence { run_threshold: Some(0.2), ..bare }), Verdict::WithinNoise);
}

#[test]
fn a_small_difference_says_what_the_design_could_have_seen() {
    let missed = Evidence {
        value: 0.02,
        interval: Ok(Interval { low: -0.02, high: 0.06 }),
        p_adjusted: Some(0.4),
        ..CLEAR
    };
    assert!(flag(&missed, 0.05).reasons.contains(&Reason::Underpowered(0.05)));
    let lucky = Evidence { value: 0.04, ..CLEAR };
    let found = flag(&lucky, 0.05);
    assert_eq!(found.verdict, Verdict::Clear);
    let said: Vec<String> = found.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "p = 0.001 after adjusting for all differences looked at",
            "the interval 0.0600 to 0.1400 leaves out 0",
            "below 0.0500, what this design finds four times in five: likely overstated",
        ]
    );
}

/// Twelve differences of which none, or four, are real: Holm keeps the chance of any false alarm,
/// Benjamini–Hochberg the share of false alarms, at 5 %.
#[test]
fn flags_on_noise_stay_within_their_error_rates() {
    let simulations = 250u64;
    let planted = Planted { items: 60, seeds: 3, item: 1.0, run: 0.1, noise: 1.0, binary: false };
    let one = |simulation: u64, real: usize| {
        let mut random = Random::new(simulation);
        let means: Vec<f64> =
            (0..13).map(|at| if (1..=real).contains(&at) { 0.9 } else { 0.0 }).collect();
        let sample = planted.sample(&means, &mut random);
        let draws = sample.draw(1000, key(&mut random)).unwrap();
        let cells: Vec<Statistic> = (0..13).map(Statistic::cell).collect();
        let spread = draws.run_spread(&cells).unwrap();
        let options =
            Options { runs: Runs::Pooled(RunSpread::of_difference(spread)), ..Options::default() };
        let estimates: Vec<_> = (1..13)
            .map(|cell| {
                let difference = Statistic::cell(cell).minus(Statistic::cell(0));
                draws.estimate(&difference, options).unwrap()
            })
            .collect();
        let p: Vec<f64> = estimates.iter().map(|one| one.p.clone().unwrap()).collect();
        let raised = |adjusted: Vec<f64>| -> Vec<bool> {
            let judge = |(found, p): (&statistics::Estimate, f64)| {
                let evidence = Evidence {
                    value: found.value,
                    interval: found.interval.clone(),
                    p_adjusted: Some(p),
                    seeds: found.seeds,
                    run_threshold: None,
                    smallest_detectable: None,
                };
                verdict(&evidence) == Verdict::Clear
            };
            estimates.iter().zip(adjusted).map(judge).collect()
        };
        let by_holm = raised(holm(&p));
        let by_bh = raised(benjamini_hochberg(&p));
        let (found, all) = (
            by_bh.iter().filter(|&&one| one).count(),
            by_bh[real..].iter().filter(|&&one| one).count(),
        );
        let share = if found > 0 { all as f64 / found as f64 } else { 0.0 };
        (by_holm[real..].contains(&true), share, by_holm[..real].iter().all(|&one| one))
    };
    for real in [0, 4] {
        let all: Vec<(bool, f64, bool)> =
            (0..simulations).into_par_iter().map(|simulation| one(simulation, real)).collect();
        let rate = |of: &dyn Fn(&(bool, f64, bool)) -> f64| {
            all.iter().map(of).sum::<f64>() / simulations as f64
        };
        // Differences from one baseline are dependent: both rates are bounds. Three standard errors.
        let bound = 0.05 + 3.0 * (0.05f64 * 0.95 / simulations as f64).sqrt();
        let (family, discovery) = (rate(&|one| f64::from(one.0)), rate(&|one| one.1));
        assert!(family < bound && discovery < bound, "{real} real: {family} {discovery}");
        assert!(rate(&|one| f64::from(one.2)) > 0.95, "planted effects are found");
    }
}

#[test]
fn a_gap_is_constant_only_if_shown_to_be() {
    let planted = Planted { items: 200, seeds: 3, item: 0.5, run: 0.02, noise: 0.3, binary: false };
    let n = [0.0, 100.0, 1000.0, 5000.0];
    let judge = |gaps: [f64; 4], margin: f64| {
        let means: Vec<f64> = (0..4).flat_map(|at| [0.5 + gaps[at], 0.5]).collect();
        let sample = planted.sample(&means, &mut Random::new(2));
        let draws = sample.draw(2000, [4; 32]).unwrap();
        let gaps: Vec<Statistic> =
            (0..4).map(|at| Statistic::gap(&[2 * at], &[2 * at + 1])).collect();
        let runs = Runs::Pooled(draws.run_spread(&gaps).unwrap());
        constant_gap(&draws, &gaps, &n, runs, margin, 0.05).unwrap()
    };
    let constant = judge([0.2; 4], 0.2);
    let test = constant.equivalence.unwrap();
    assert!(test.equivalent && !test.differs, "{test:?}");
    assert!(constant.change.interval.unwrap().contains(0.0));
    let growing = judge([0.0, 0.2, 0.3, 0.4], 0.1);
    let test = growing.equivalence.unwrap();
    assert!(!test.equivalent && test.differs, "{test:?}");
    assert!(growing.change.interval.unwrap().contains(0.4));
    // Not significant, and yet no evidence of "constant".
    let unsure = judge([0.2; 4], 0.01).equivalence.unwrap();
    assert!(!unsure.equivalent && !unsure.differs, "{unsure:?}");
}

#[test]
fn a_transfer_ratio_is_withheld_where_nothing_was_gained() {
    let planted = Planted { items: 250, seeds: 3, item: 1.0, run: 0.05, noise: 0.5, binary: false };
    let [base, without, with] = [0, 1, 2].map(Statistic::cell);
    let ratio = |means: [f64; 3]| {
        let sample = planted.sample(&means, &mut Random::new(11));
        let draws = sample.draw(100, [5; 32]).unwrap();
        let spread = draws.run_spread(&[base.clone(), without.clone(), with.clone()]).unwrap();
        transfer_ratio(&draws, &without, &with, &base, Runs::Pooled(spread), 0.95)
    };
    let found = ratio([0.0, 0.6, 1.0]).unwrap();
    assert!(found.interval.contains(0.6) && found.interval.width() < 0.5, "{found:?}");
    let withheld = ratio([0.0, 0.0, 0.0]).unwrap_err();
    assert!(matches!(withheld, Unavailable::DenominatorSpansZero { .. }));
}
