#pragma once
// Small charts as SVG text for an HTML page, without scripts. Colours are the CSS variables that `style()` defines, for light and
// dark pages; legends are HTML below the drawing, so that they wrap and never lie on it. All text is escaped here.

#include <functional>
#include <string>
#include <vector>

namespace program::plot {

/// & < > " ' as entities; control characters that no page may hold are left out.
std::string escape(std::string const& text);

/// A number for a reader: up to `digits` significant ones, thousands grouped; "–" for NaN.
std::string readable(double value, int digits = 4);

/// Round positions that cover [low, high]: steps of 1, 2 or 5 times a power of ten, about `count` of them, all within.
std::vector<double> ticks(double low, double high, int count = 6);

/// The rules that the charts need, for a <style> element: 24 styles of series from 8 colours that colour-blind readers can tell
/// apart and 3 dashes, for light and dark.
std::string style();

struct Series {
  std::string name;
  std::vector<double> x, y;
  std::vector<double> low, high;  ///< a band around y; empty: none
  std::size_t style = 0;
};

struct LineChart {
  std::string x_label, y_label;
  std::vector<Series> series;
  bool log_x = false, log_y = false;                  ///< values that are not positive are left out then
  std::vector<std::pair<double, std::string>> lines;  ///< horizontal, named
  bool from_zero = false;                             ///< the y axis starts at 0
};

struct Point {
  std::string name;
  double x = 0, y = 0;
  double x_error = 0, y_error = 0;
  std::size_t style = 0;
};

struct Scatter {
  std::string x_label, y_label;
  std::vector<Point> points;
};

struct Bar {
  std::string name;
  double value = 0, error = 0;
  std::size_t style = 0;
};

struct BarChart {
  std::string label;
  std::vector<Bar> bars;
};

/// `values[row][column]`, NaN where there is nothing.
struct HeatMap {
  std::string title;
  std::vector<std::string> rows, columns;
  std::string row_label, column_label;
  std::vector<std::vector<double>> values;
  double middle = 0, reach = 1;               ///< no colour at `middle`, full colour `reach` above (warm) and below (cold)
  bool logarithmic = false;                   ///< the distance is that of the base-2 logarithms
  bool numbers = false;                       ///< values written into the cells
  std::function<std::string(double)> format;  ///< of a value; `readable` where unset
};

std::string draw(LineChart const& chart);
std::string draw(Scatter const& chart);
std::string draw(BarChart const& chart);
std::string draw(HeatMap const& chart);

}  // namespace program::plot
