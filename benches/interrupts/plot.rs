//! Cost against the number of vectors, as an SVG: one panel a CPU, both axes logarithmic.

use std::fmt::Write as _;

use crate::measure::{Figure, Result};

/// What is drawn, in which colour, and what is said of it.
const SERIES: [(&str, &str, &str); 3] = [
    ("enable_one_by_one", "#1f6fb4", "one by one"),
    ("enable_one_by_one_blocks", "#d1701f", "one by one, messages published in blocks"),
    ("enable_at_once", "#2f8f4e", "all at once"),
];
const FLOOR: (&str, &str) = ("#777777", "floor: eventfds, irqfds, one commit");
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 230.0;
/// The axes: vectors, and microseconds.
const X: (f64, f64) = (32.0, 4096.0);
const Y: (f64, f64) = (50.0, 100_000.0);

pub(crate) fn svg(figures: &[(usize, Figure)]) -> Result<String> {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 360\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"840\" height=\"360\" fill=\"white\"/>\n",
    );
    for cpu in 0..2 {
        writeln!(svg, "<g transform=\"translate({},40)\">", 60 + cpu * 405)?;
        writeln!(svg, "<text x=\"{}\" y=\"-16\" text-anchor=\"middle\">CPU {cpu}</text>", WIDTH / 2.0)?;
        axes(&mut svg)?;
        let of = |name: &str, us: fn(&Figure) -> f64| -> Vec<(f64, f64)> {
            let figures = figures.iter().filter(|(on, figure)| *on == cpu && figure.name == name);
            figures.map(|(_, figure)| (figure.n as f64, us(figure))).collect()
        };
        line(&mut svg, FLOOR.0, &of(SERIES[0].0, |figure| figure.floor_us))?;
        for (name, colour, _) in SERIES {
            line(&mut svg, colour, &of(name, |figure| figure.ours_us))?;
        }
        svg.push_str("</g>\n");
    }
    let legend = SERIES.map(|(_, colour, text)| (colour, text)).into_iter().chain([FLOOR]);
    for (index, (colour, text)) in legend.enumerate() {
        let (x, y) = (60 + index % 2 * 405, 325 + index / 2 * 20);
        writeln!(svg, "<rect x=\"{x}\" y=\"{}\" width=\"18\" height=\"3\" fill=\"{colour}\"/>", y - 5)?;
        writeln!(svg, "<text x=\"{}\" y=\"{y}\">{text}</text>", x + 26)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn axes(svg: &mut String) -> Result<()> {
    writeln!(svg, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"black\"/>")?;
    for n in [64.0, 512.0, 2048.0] {
        let x = across(n);
        writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y2=\"{HEIGHT}\" stroke=\"#dddddd\"/>")?;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>", HEIGHT + 16.0)?;
    }
    for (us, text) in [(100.0, "0.1 ms"), (1_000.0, "1 ms"), (10_000.0, "10 ms"), (100_000.0, "0.1 s")] {
        let y = up(us);
        writeln!(svg, "<line x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>")?;
        writeln!(svg, "<text x=\"-6\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", y + 4.0)?;
    }
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">vectors</text>",
        WIDTH / 2.0,
        HEIGHT + 32.0
    )?;
    Ok(())
}

fn line(svg: &mut String, colour: &str, points: &[(f64, f64)]) -> Result<()> {
    let mut path = String::new();
    for (n, us) in points {
        write!(path, "{:.1},{:.1} ", across(*n), up(*us))?;
        writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", across(*n), up(*us))?;
    }
    writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>")?;
    Ok(())
}

fn across(n: f64) -> f64 {
    WIDTH * (n / X.0).ln() / (X.1 / X.0).ln()
}

fn up(us: f64) -> f64 {
    HEIGHT * (1.0 - (us / Y.0).ln() / (Y.1 / Y.0).ln())
}
