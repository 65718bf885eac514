//! A comparison as a drawing: allocation as pods arrive, leftovers by size, cores by node.

use std::fmt::Write;

use crate::compare::{Comparison, Side};
use crate::measure::SizeClass;

/// One colour a side; told apart without colour sight too.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 220.0;

/// The drawing as an SVG document.
pub fn svg(comparison: &Comparison) -> String {
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1320 340\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"1320\" height=\"340\" fill=\"white\"/>\n",
    );
    let title = format!(
        "{}: {} pods on {} nodes, seed {}",
        comparison.source, comparison.pods, comparison.nodes, comparison.seed
    );
    label(&mut text, 40.0, 24.0, "start", &title);
    for (index, side) in comparison.sides.iter().enumerate() {
        let x = 700.0 + index as f64 * 240.0;
        bar(&mut text, x, 14.0, 12.0, 12.0, COLOURS[index]);
        label(&mut text, x + 18.0, 24.0, "start", &side.policy);
    }
    curves(&mut text, &comparison.sides, 40.0);
    let left: Vec<(String, [f64; 2])> = SizeClass::ALL
        .iter()
        .map(|class| {
            let count =
                |side: &Side| side.figures.left_over.get(class).copied().unwrap_or(0) as f64;
            (class.words().to_owned(), [0, 1].map(|index| count(&comparison.sides[index])))
        })
        .collect();
    bars(&mut text, 480.0, "pods left over", &left);
    let cores: Vec<(String, [f64; 2])> = (0..10)
        .map(|tenth| {
            let count = |index: usize| comparison.sides[index].figures.cpu_nodes[tenth] as f64;
            (format!("{}", tenth * 10), [count(0), count(1)])
        })
        .collect();
    bars(&mut text, 920.0, "nodes by cores allocated, from %", &cores);
    text.push_str("</svg>\n");
    text
}

/// The upper edge of the panels.
const TOP: f64 = 70.0;

fn curves(text: &mut String, sides: &[Side; 2], left: f64) {
    let points = || sides.iter().flat_map(|side| &side.figures.curve);
    let most = points().map(|(arrived, _)| *arrived).fold(100.0, f64::max);
    label(text, left, TOP - 10.0, "start", "allocated, % of devices");
    frame(text, left);
    let x = |arrived: f64| left + arrived / most * WIDTH;
    let y = |used: f64| TOP + HEIGHT * (1.0 - used / 100.0);
    for mark in [0.0, 50.0, 100.0] {
        label(text, x(mark), TOP + HEIGHT + 16.0, "middle", &format!("{mark:.0} % asked"));
        label(text, left - 4.0, y(mark) + 4.0, "end", &format!("{mark:.0}"));
    }
    for (index, side) in sides.iter().enumerate() {
        let points: Vec<String> = side
            .figures
            .curve
            .iter()
            .map(|(arrived, used)| format!("{:.1},{:.1}", x(*arrived), y(*used)))
            .collect();
        let _ = writeln!(
            text,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{} points=\"{}\"/>",
            COLOURS[index],
            if index == 1 { " stroke-dasharray=\"6 3\"" } else { "" },
            points.join(" ")
        );
    }
}

fn bars(text: &mut String, left: f64, title: &str, groups: &[(String, [f64; 2])]) {
    label(text, left, TOP - 10.0, "start", title);
    frame(text, left);
    let most = groups.iter().flat_map(|(_, pair)| pair).fold(1.0_f64, |most, &one| most.max(one));
    label(text, left - 4.0, TOP + 4.0, "end", &format!("{most:.0}"));
    let step = WIDTH / groups.len().max(1) as f64;
    for (place, (name, pair)) in groups.iter().enumerate() {
        let x = left + place as f64 * step;
        label(text, x + step / 2.0, TOP + HEIGHT + 16.0, "middle", name);
        for (index, value) in pair.iter().enumerate() {
            let height = value / most * HEIGHT;
            let x = x + step * (0.15 + 0.35 * index as f64);
            bar(text, x, TOP + HEIGHT - height, step * 0.33, height, COLOURS[index]);
        }
    }
}

fn frame(text: &mut String, left: f64) {
    let _ = writeln!(
        text,
        "<rect x=\"{left}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" \
         stroke=\"#999\"/>"
    );
}

fn bar(text: &mut String, x: f64, y: f64, width: f64, height: f64, colour: &str) {
    let _ = writeln!(
        text,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{colour}\"/>"
    );
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ =
        writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}
