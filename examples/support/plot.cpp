#include "support/plot.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace program::plot {

namespace {

constexpr std::size_t colours = 8;
constexpr char const* dashes[]{"", "7 4", "2 3"};
constexpr double character = 6.6;  // width of one at the charts' 12 px

bool finite(double x) { return x - x == 0; }

std::string colour(std::size_t style) { return fmt::format("var(--series-{})", style % colours); }
std::string dash(std::size_t style) {
  auto const pattern = dashes[style / colours % std::size(dashes)];
  return *pattern ? fmt::format(" stroke-dasharray=\"{}\"", pattern) : std::string{};
}

/// From numbers to pixels.
struct Axis {
  double low = 0, high = 1, from = 0, to = 1;
  bool log = false;

  double at(double x) const {
    double const share = log ? (std::log(x) - std::log(low)) / (std::log(high) - std::log(low)) : (x - low) / (high - low);
    return from + share * (to - from);
  }
  bool shows(double x) const { return finite(x) && (!log || x > 0); }

  std::vector<double> ticks() const {
    if (!log) return plot::ticks(low, high);
    std::vector<double> out;
    bool const few = std::log10(high / low) < 3;
    for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10)
      for (double const digit : {1.0, 2.0, 5.0})
        if ((few || digit == 1) && power * digit >= low * (1 - 1e-12) && power * digit <= high * (1 + 1e-12))
          out.push_back(power * digit);
    return out;
  }
};

/// The range of what is shown, and a little more.
struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void add(double x, bool log) {
    if (finite(x) && (!log || x > 0)) low = std::min(low, x), high = std::max(high, x);
  }
  Axis axis(double from, double to, bool log, bool from_zero, double room) const {
    Axis out{low, high, from, to, log};
    if (!(low <= high)) return {log ? 1.0 : 0.0, log ? 10.0 : 1.0, from, to, log};
    if (log) {
      double const factor = low == high ? 2 : std::pow(high / low, room);
      out.low /= factor, out.high *= factor;
    } else {
      double const more = low == high ? std::max(std::abs(low), 1e-9) * 0.5 : (high - low) * room;
      out.low = from_zero && low >= 0 ? 0 : low - more, out.high += more;
    }
    return out;
  }
};

/// A drawing of a fixed width with a frame of axes.
class Drawing {
 public:
  Drawing(double width, double height) {
    out_ = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" style=\"min-width:{:g}px;max-width:{:g}px\">", width, height,
                       std::min(width, 680.0), width * 1.25);
  }
  template <class... A>
  void add(fmt::format_string<A...> form, A&&... parts) {
    fmt::format_to(std::back_inserter(out_), form, std::forward<A>(parts)...);
  }
  void text(double x, double y, char const* anchor, std::string const& what, char const* more = "") {
    add("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>", x, y, anchor, more, escape(what));
  }
  void axes(Axis const& x, Axis const& y, std::string const& x_label, std::string const& y_label) {
    for (double const t : y.ticks()) {
      add("<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", x.from, y.at(t), x.to);
      text(x.from - 6, y.at(t) + 4, "end", readable(t));
    }
    for (double const t : x.ticks()) {
      add("<path class=\"grid\" d=\"M{:.1f} {:.1f}V{:.1f}\"/>", x.at(t), y.from, y.to);
      text(x.at(t), y.from + 16, "middle", readable(t));
    }
    text((x.from + x.to) / 2, y.from + 36, "middle", x_label);
    add("<text transform=\"translate(14 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>", (y.from + y.to) / 2,
        escape(y_label));
  }
  std::string end() { return std::move(out_) + "</svg>"; }

 private:
  std::string out_;
};

std::string legend_entry(std::string const& name, std::size_t style, bool line) {
  auto const mark = line ? fmt::format("<path d=\"M1 7H27\" stroke=\"{}\" stroke-width=\"2.5\"{}/>", colour(style), dash(style))
                         : fmt::format("<circle cx=\"14\" cy=\"7\" r=\"5\" fill=\"{}\"/>", colour(style));
  return fmt::format("<li><svg viewBox=\"0 0 28 14\" width=\"28\" height=\"14\" aria-hidden=\"true\">{}</svg>{}</li>", mark,
                     escape(name));
}

/// One pixel's shape, so that points of the same colour differ as lines do by their dashes.
std::string marker(double x, double y, std::size_t style) {
  auto const fill = colour(style);
  switch (style / colours % std::size(dashes)) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"{}\"/>", x, y, fill);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"9\" height=\"9\" fill=\"{}\"/>", x - 4.5, y - 4.5, fill);
    default:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l6 10h-12z\" fill=\"{}\"/>", x, y - 6, fill);
  }
}

}  // namespace

std::string escape(std::string const& text) {
  std::string out;
  for (char const c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= ' ' || c == '\n' || c == '\t') out += c;
    }
  }
  return out;
}

std::string readable(double value, int digits) {
  if (!finite(value)) return value != value ? "–" : value > 0 ? "∞" : "−∞";
  std::string out;
  if (double const size = std::abs(value); value == 0)
    out = "0";
  else if (size >= 1e9 || size < 1e-4)
    out = fmt::format("{:.{}g}", value, std::min(digits, 3));
  else
    out = fmt::format("{:.{}f}", value, std::max(0, digits - 1 - static_cast<int>(std::floor(std::log10(size)))));
  if (out.find('.') != std::string::npos && out.find('e') == std::string::npos) {
    out.erase(out.find_last_not_of('0') + 1);
    if (out.back() == '.') out.pop_back();
  }
  bool const negative = out[0] == '-';
  if (negative) out.erase(0, 1);
  if (out.find('e') == std::string::npos)
    for (auto at = static_cast<std::ptrdiff_t>(std::min(out.find('.'), out.size())) - 3; at > 0; at -= 3)
      out.insert(static_cast<std::size_t>(at), ",");
  return negative ? "−" + out : out;
}

std::vector<double> ticks(double low, double high, int count) {
  if (!(finite(low) && finite(high) && low < high && count > 0)) return {};
  double const rough = (high - low) / count, power = std::pow(10, std::floor(std::log10(rough)));
  double const step = power * (rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10);
  std::vector<double> out;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) out.push_back(k == 0 ? 0 : k * step);
  return out;
}

std::string style() {
  // Okabe & Ito's colours, the yellow and the black changed for what they lie on.
  return R"(
:root{color-scheme:light dark;--page:#fff;--ink:#1c1f24;--quiet:#5c6470;--rule:#dfe3e8;--panel:#f6f7f9;--warm:#d55e00;--cold:#0072b2;
--series-0:#0072b2;--series-1:#d55e00;--series-2:#009e73;--series-3:#b8518f;--series-4:#c98500;--series-5:#3fa0dc;--series-6:#7a6a1e;--series-7:#1c1f24}
@media(prefers-color-scheme:dark){:root{--page:#15181d;--ink:#e6e9ee;--quiet:#a2abb8;--rule:#323841;--panel:#1d2128;--warm:#ff8b3d;--cold:#56b4e9;
--series-0:#4aa3e0;--series-1:#ff7f2a;--series-2:#1fc79a;--series-3:#e08fc0;--series-4:#f0b429;--series-5:#9ad4f7;--series-6:#c9b95a;--series-7:#e6e9ee}}
figure{margin:1.5rem 0}figure>.scroll{overflow-x:auto}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg text.in{font-size:11px;pointer-events:none}
svg .grid{stroke:var(--rule);fill:none}svg .named{stroke:var(--quiet);stroke-dasharray:5 4;fill:none}
svg .cell{stroke:var(--rule);stroke-width:1}svg .frame{fill:none;stroke:var(--rule);pointer-events:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;padding:0;margin:.4rem 0}.legend li{display:flex;align-items:center;gap:.4rem;font-size:.85rem}
figcaption{color:var(--quiet);font-size:.9rem;max-width:46rem}
)";
}

std::string draw(LineChart const& chart) {
  double const width = 760, height = 360;
  Range xs, ys;
  for (auto const& s : chart.series)
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!finite(s.y[i])) continue;
      xs.add(s.x[i], chart.log_x), ys.add(s.y[i], chart.log_y);
      if (!s.low.empty()) ys.add(s.low[i], chart.log_y), ys.add(s.high[i], chart.log_y);
    }
  for (auto const& line : chart.lines) ys.add(line.first, chart.log_y);
  Axis const x = xs.axis(70, width - 16, chart.log_x, false, 0.01);
  Axis const y = ys.axis(height - 48, 12, chart.log_y, chart.from_zero, 0.05);
  Drawing out{width, height};
  out.axes(x, y, chart.x_label, chart.y_label);
  for (auto const& [value, name] : chart.lines) {
    out.add("<path class=\"named\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", x.from, y.at(value), x.to);
    out.text(x.to - 4, y.at(value) - 5, "end", name);
  }
  std::string bands, strokes, points, legend;
  for (auto const& s : chart.series) {
    std::string line, upper, lower;
    bool open = false;
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!x.shows(s.x[i]) || !y.shows(s.y[i])) {
        open = false;
        continue;
      }
      double const at_x = x.at(s.x[i]), at_y = y.at(s.y[i]);
      line += fmt::format("{}{:.1f} {:.1f}", open ? 'L' : 'M', at_x, at_y);
      open = true;
      if (!s.low.empty() && y.shows(s.low[i]) && y.shows(s.high[i])) {
        upper += fmt::format("{}{:.1f} {:.1f}", upper.empty() ? 'M' : 'L', at_x, y.at(s.high[i]));
        lower.insert(0, fmt::format("L{:.1f} {:.1f}", at_x, y.at(s.low[i])));
      }
      if (s.x.size() <= 60) {
        auto const between = s.low.empty() || s.low[i] == s.high[i]
                                 ? std::string{}
                                 : fmt::format(" ({} to {})", readable(s.low[i]), readable(s.high[i]));
        points +=
            fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"6\" fill=\"transparent\"><title>{}, {} {}: {}{}</title></circle>",
                        at_x, at_y, escape(s.name), escape(chart.x_label), readable(s.x[i], 6), readable(s.y[i]), between);
      }
    }
    if (!upper.empty()) bands += fmt::format("<path d=\"{}{}z\" fill=\"{}\" fill-opacity=\".16\"/>", upper, lower, colour(s.style));
    strokes += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\"{}><title>{}</title></path>", line,
        colour(s.style), dash(s.style), escape(s.name));
    legend += legend_entry(s.name, s.style, true);
  }
  out.add("{}{}{}", bands, strokes, points);
  return fmt::format("<div class=\"scroll\">{}</div><ul class=\"legend\">{}</ul>", out.end(), legend);
}

std::string draw(Scatter const& chart) {
  double const width = 760, height = 400;
  Range xs, ys;
  for (auto const& p : chart.points) {
    if (!finite(p.x) || !finite(p.y)) continue;
    xs.add(p.x - p.x_error, false), xs.add(p.x + p.x_error, false);
    ys.add(p.y - p.y_error, false), ys.add(p.y + p.y_error, false);
  }
  Axis const x = xs.axis(70, width - 16, false, false, 0.06), y = ys.axis(height - 48, 12, false, false, 0.08);
  Drawing out{width, height};
  out.axes(x, y, chart.x_label, chart.y_label);
  struct Box {
    double left, top, right, bottom;
    bool meets(Box const& o) const { return left < o.right && o.left < right && top < o.bottom && o.top < bottom; }
  };
  std::vector<Box> taken;
  for (auto const& p : chart.points)
    if (finite(p.x) && finite(p.y)) {
      double const at_x = x.at(p.x), at_y = y.at(p.y);
      taken.push_back({at_x - 6, at_y - 6, at_x + 6, at_y + 6});
      taken.push_back({x.at(p.x - p.x_error), at_y - 1, x.at(p.x + p.x_error), at_y + 1});
      taken.push_back({at_x - 1, y.at(p.y + p.y_error), at_x + 1, y.at(p.y - p.y_error)});
    }
  std::string legend;
  for (auto const& p : chart.points) {
    if (!finite(p.x) || !finite(p.y)) continue;
    double const at_x = x.at(p.x), at_y = y.at(p.y);
    out.add("<g><title>{}: {} {}, {} {}</title>", escape(p.name), escape(chart.x_label), readable(p.x), escape(chart.y_label),
            readable(p.y));
    out.add("<path d=\"M{:.1f} {:.1f}H{:.1f}M{:.1f} {:.1f}V{:.1f}\" stroke=\"{}\" stroke-opacity=\".6\" fill=\"none\"/>",
            x.at(p.x - p.x_error), at_y, x.at(p.x + p.x_error), at_x, y.at(p.y - p.y_error), y.at(p.y + p.y_error),
            colour(p.style));
    out.add("{}</g>", marker(at_x, at_y, p.style));
    // The first free place around the point; where there is none, the name is in the legend and in the title.
    double const wide = character * static_cast<double>(p.name.size());
    struct Place {
      Box box;
      double x, y;
      char const* anchor;
    };
    double const right = std::max(at_x, x.at(p.x + p.x_error)) + 9, left = std::min(at_x, x.at(p.x - p.x_error)) - 9;
    auto const beside = [&](double px, double py) { return Place{{px, py - 12, px + wide, py + 3}, px, py, "start"}; };
    auto const before = [&](double px, double py) { return Place{{px - wide, py - 12, px, py + 3}, px, py, "end"}; };
    for (Place const& place :
         {beside(at_x + 9, at_y + 4), before(at_x - 9, at_y + 4), beside(at_x + 5, at_y - 7), beside(at_x + 5, at_y + 16),
          before(at_x - 5, at_y - 7), before(at_x - 5, at_y + 16), beside(right, at_y + 4), before(left, at_y + 4)}) {
      bool const outside = place.box.left < x.from || place.box.right > x.to || place.box.top < y.to || place.box.bottom > y.from;
      if (outside || std::any_of(taken.begin(), taken.end(), [&](Box const& box) { return box.meets(place.box); })) continue;
      taken.push_back(place.box);
      out.text(place.x, place.y, place.anchor, p.name);
      break;
    }
    legend += legend_entry(p.name, p.style, false);
  }
  return fmt::format("<div class=\"scroll\">{}</div><ul class=\"legend\">{}</ul>", out.end(), legend);
}

std::string draw(BarChart const& chart) {
  double const width = 760, row = 26;
  std::size_t longest = 0;
  Range range;
  range.add(0, false);
  for (auto const& bar : chart.bars) {
    longest = std::max(longest, bar.name.size());
    range.add(bar.value + bar.error, false);
  }
  double const left = std::min(16 + character * static_cast<double>(longest), width / 3),
               bottom = 8 + row * static_cast<double>(chart.bars.size());
  Axis const x = range.axis(left, width - 90, false, true, 0.02);
  Drawing out{width, bottom + 44};
  for (double const t : x.ticks()) {
    out.add("<path class=\"grid\" d=\"M{:.1f} 4V{:.1f}\"/>", x.at(t), bottom);
    out.text(x.at(t), bottom + 16, "middle", readable(t));
  }
  out.text((x.from + x.to) / 2, bottom + 36, "middle", chart.label);
  double top = 8;
  for (auto const& bar : chart.bars) {
    out.text(left - 8, top + 14, "end", bar.name);
    if (finite(bar.value)) {
      auto const error = bar.error > 0 ? " ± " + readable(bar.error, 3) : std::string{};
      out.add("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"18\" fill=\"{}\"><title>{}: {}{}</title></rect>", left,
              top, std::max(0.0, x.at(bar.value) - left), colour(bar.style), escape(bar.name), readable(bar.value), error);
      if (bar.error > 0)
        out.add("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"var(--ink)\" stroke-width=\"1.5\"/>",
                x.at(std::max(0.0, bar.value - bar.error)), top + 9, x.at(bar.value + bar.error));
      out.text(x.at(bar.value + bar.error) + 6, top + 14, "start", readable(bar.value));
    }
    top += row;
  }
  return fmt::format("<div class=\"scroll\">{}</div>", out.end());
}

std::string draw(HeatMap const& map) {
  auto const format = map.format ? map.format : [](double x) { return readable(x, 3); };
  std::size_t longest = 0, longest_column = 0;
  for (auto const& name : map.rows) longest = std::max(longest, name.size());
  for (auto const& name : map.columns) longest_column = std::max(longest_column, name.size());
  double const columns = static_cast<double>(map.columns.size()), rows = static_cast<double>(map.rows.size());
  double const wide = map.numbers ? std::max(40.0, 10 + character * static_cast<double>(longest_column))
                                  : std::max(6.0, 300 / std::max(columns, 1.0));
  double const high = map.numbers ? 26 : 18, left = 34 + character * static_cast<double>(longest), top = 22;
  double const width = left + wide * columns + 12, bottom = top + high * rows;
  std::string out =
      fmt::format("<svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" role=\"img\">", width, bottom + 40);
  auto const text = [&](double x, double y, char const* anchor, std::string const& what, char const* more = "") {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>", x, y, anchor, more, escape(what));
  };
  text(left, 14, "start", map.title, " font-weight=\"600\"");
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    double const y = top + high * static_cast<double>(r);
    text(left - 6, y + high / 2 + 4, "end", map.rows[r]);
    for (std::size_t c = 0; c < map.columns.size(); ++c) {
      double const value = map.values[r][c], x = left + wide * static_cast<double>(c);
      out += fmt::format("<g><title>{} {}, {} {}: {}</title>", escape(map.row_label), escape(map.rows[r]), escape(map.column_label),
                         escape(map.columns[c]), escape(format(value)));
      double const distance = map.logarithmic ? std::log2(value / map.middle) : value - map.middle;
      double const strength = std::min(1.0, std::abs(distance) / map.reach);
      auto const fill = value != value ? " fill=\"var(--panel)\""
                                       : fmt::format(" fill=\"var(--{})\" fill-opacity=\"{:.2g}\"", distance > 0 ? "warm" : "cold",
                                                     (map.numbers ? 0.6 : 0.9) * strength);
      out += fmt::format("<rect{} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"{}/>",
                         map.numbers ? " class=\"cell\"" : " shape-rendering=\"crispEdges\"", x, y, wide, high, fill);
      if (map.numbers) text(x + wide / 2, y + high / 2 + 4, "middle", format(value), " class=\"in\"");
      out += "</g>";
    }
  }
  out += fmt::format("<rect class=\"frame\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>", left, top,
                     wide * columns, high * rows);
  // As many column names as there is room for.
  double const needed = character * static_cast<double>(longest_column) + 8;
  auto const every = static_cast<std::size_t>(std::max(1.0, std::ceil(needed / wide)));
  for (std::size_t c = 0; c < map.columns.size(); c += every)
    text(left + wide * (static_cast<double>(c) + 0.5), bottom + 15, "middle", map.columns[c]);
  text(left + wide * columns / 2, bottom + 33, "middle", map.column_label);
  out += fmt::format("<text transform=\"translate(13 {:.1f}) rotate(-90)\" text-anchor=\"middle\">{}</text>", (top + bottom) / 2,
                     escape(map.row_label));
  return out + "</svg>";
}

}  // namespace program::plot
