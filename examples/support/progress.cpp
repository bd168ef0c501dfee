#include "support/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace program {

namespace {

/// Columns of the terminal on standard error.
std::size_t columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string duration_text(double seconds) {
  auto const whole = static_cast<Index>(std::clamp(seconds + 0.5, 0.0, 1e9));
  return whole < 3600 ? fmt::format("{}:{:02}", whole / 60, whole % 60)
                      : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(std::string title, Index total, Index done)
    : title_{std::move(title)},
      total_{std::max<Index>(total, 1)},
      first_{done},
      terminal_{::isatty(STDERR_FILENO) == 1},
      start_{Clock::now()} {}

void Progress::show(Index done, std::string const& note) {
  auto const now = Clock::now();
  // Often enough to look alive, seldom enough to cost nothing; a log gets a line in ten seconds.
  auto const between = terminal_ ? std::chrono::milliseconds{100} : std::chrono::milliseconds{10'000};
  bool const last = done >= total_;
  if (!last && now - last_ < between && last_ != Clock::time_point{}) return;
  last_ = now;
  double const seconds = std::chrono::duration<double>(now - start_).count();
  std::string const left = last             ? fmt::format("in {}", duration_text(seconds))
                           : done <= first_ ? std::string{}
                                            : fmt::format("{} left", duration_text(seconds * static_cast<double>(total_ - done) /
                                                                                   static_cast<double>(done - first_)));
  if (!terminal_) {
    fmt::print(stderr, "{} {}/{} {} {}\n", title_, done, total_, note, left);
    return;
  }
  std::size_t const width = 24,
                    filled = static_cast<std::size_t>(std::min(done, total_)) * width / static_cast<std::size_t>(total_);
  std::string bar;
  for (std::size_t i = 0; i < width; ++i) bar += i < filled ? "━" : "╌";
  std::string text = fmt::format("{} {}/{} {} {}", title_, done, total_, note, left);
  std::size_t const room = columns() > width + 2 ? columns() - width - 2 : 0;
  if (text.size() > room) text.resize(room);
  fmt::print(stderr, "\r\033[K{} {}", bar, text);
  open_ = true;
  if (last) pause();
}

void Progress::pause() {
  if (open_) fmt::print(stderr, "\n");
  open_ = false;
}

}  // namespace program
