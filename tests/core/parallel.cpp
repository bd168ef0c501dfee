#include <blackmamba/core/context.hpp>
#include <blackmamba/core/parallel.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

TEST_CASE("parallel: every index is visited once, with any number of threads") {
  for (int threads : {1, 2, 3, 8})
    for (Index count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
      parallel_for(threads, count, [&](Index i) { ++visits[static_cast<std::size_t>(i)]; });
      CHECK(std::all_of(visits.begin(), visits.end(), [](auto const& v) { return v == 1; }));
    }
}

TEST_CASE("parallel: an exception comes back to the caller, from any thread") {
  for (int threads : {1, 2, 4}) {
    CHECK_THROWS_WITH_AS(parallel_for(threads, 100,
                                      [](Index i) {
                                        if (i == 57) throw std::runtime_error("at 57");
                                      }),
                         "at 57", std::runtime_error);
    // The next loop is none the worse for it.
    std::atomic<int> sum{0};
    parallel_for(threads, 10, [&](Index i) { sum += static_cast<int>(i); });
    CHECK(sum == 45);
  }
}

TEST_CASE("parallel: pieces cover the range in pieces of the grain, the same ones with any number of threads") {
  auto const pieces = [](int threads, Index count, Index grain) {
    std::vector<std::pair<Index, Index>> out;
    std::mutex mutex;
    parallel_ranges(threads, count, grain, [&](Index begin, Index end) {
      std::lock_guard const lock{mutex};
      out.emplace_back(begin, end);
    });
    std::sort(out.begin(), out.end());
    return out;
  };
  for (Index count : {0, 1, 9, 10, 11, 97})
    for (Index grain : {0, 1, 10, 1000}) {
      auto const alone = pieces(1, count, grain);
      CHECK(pieces(2, count, grain) == alone);
      CHECK(pieces(5, count, grain) == alone);
      Index at = 0;
      for (auto const& [begin, end] : alone) {
        CHECK(begin == at);
        CHECK(end > begin);
        CHECK(end - begin <= std::max<Index>(grain, 1));
        at = end;
      }
      CHECK(at == count);
    }
}

TEST_CASE("parallel: loops one after another, of any size, lose and repeat nothing") {
  // Threads come late to short loops and to loops that are over: 20,000 chances for it.
  std::vector<std::atomic<int>> visits(64);
  for (int loop = 0; loop < 20'000; ++loop)
    parallel_for(2 + loop % 3, 1 + loop % 64,
                 [&](Index i) { visits[static_cast<std::size_t>(i)].fetch_add(1, std::memory_order_relaxed); });
  int wanted = 0;
  for (int i = 63; i >= 0; --i) {
    for (int loop = 0; loop < 20'000; ++loop) wanted += loop % 64 == i;
    CHECK(visits[static_cast<std::size_t>(i)] == wanted);
  }
}

TEST_CASE("parallel: a loop within a loop, and loops of several threads at once, are done by their callers") {
  std::atomic<int> sum{0};
  parallel_for(3, 10, [&](Index) { parallel_for(3, 10, [&](Index i) { sum += static_cast<int>(i); }); });
  CHECK(sum == 450);
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int loop = 0; loop < 200; ++loop) parallel_for(2, 10, [&](Index i) { sum += static_cast<int>(i); });
    });
  for (auto& caller : callers) caller.join();
  CHECK(sum == 450 + 4 * 200 * 45);
}

TEST_CASE("parallel: a process that has forked goes on alone") {
  parallel_for(4, 100, [](Index) {});
  pid_t const child = ::fork();
  if (child == 0) {
    std::atomic<int> sum{0};
    parallel_for(4, 100, [&](Index i) { sum += static_cast<int>(i); });
    std::exit(sum == 4950 ? 0 : 1);  // with the destructors of statics
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("parallel: the processors there are, or OMP_NUM_THREADS, is what a context starts with") {
  CHECK(available_threads() >= 1);
  CHECK(Cpu{}.threads() == available_threads());
  CHECK(Cpu{3}.threads() == 3);
  CHECK(Reference{}.threads() == 1);
  CHECK_THROWS_WITH_AS(Cpu{0}, "Cpu: threads is 0, not at least 1", value_error);
}

TEST_CASE("context: copies share their scratch memory, separate contexts do not") {
  Cpu const a, b;
  Cpu const copy = a;
  CHECK(&a.scratch() == &copy.scratch());
  CHECK(&a.scratch() != &b.scratch());
}
