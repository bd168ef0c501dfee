#pragma once
// A bar for long work on a terminal; elsewhere a line now and then.

#include <chrono>
#include <string>

#include <blackmamba/core/shape.hpp>

namespace program {

using blackmamba::Index;

/// Progress of `total` pieces of work, on standard error.
class Progress {
 public:
  explicit Progress(std::string title, Index total, Index done = 0);

  /// `done` pieces are done; `note` is shown behind the bar, where the time that is left stands too.
  void show(Index done, std::string const& note);

  /// Ends the bar's line, so that other output begins on one of its own.
  void pause();

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  Index total_, first_;
  bool terminal_, open_ = false;
  Clock::time_point start_, last_;
};

/// "4:05", "1:02:03".
std::string duration_text(double seconds);

}  // namespace program
