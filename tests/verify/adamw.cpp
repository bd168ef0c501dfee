#include <blackmamba/verify/problems/adamw.hpp>

#include "verify/support.hpp"

using namespace blackmamba;
using namespace blackmamba::verify;

TEST_CASE_TEMPLATE("verify: AdamW holds to the table on every context, for every scalar and awkward shape", T, float, double, half,
                   bf16) {
  test::check_contexts<AdamWProblem, T>();
}

TEST_CASE_TEMPLATE("verify: AdamW runs with correctly rounded storage around exact arithmetic", T, bf16, half, float) {
  test::check_exact<AdamWProblem, T>();
}

TEST_CASE_TEMPLATE("verify: an AdamW that forgets the bias of the moments, or decays what does not decay, is found", T, float,
                   double, half, bf16) {
  CHECK_FALSE(static_cast<bool>(check_with<AdamWProblem, T>([](AdamWArgs<T> args) {
    args.step = 1000000;
    adamw(Cpu{2}, args);
  })));
  CHECK_FALSE(static_cast<bool>(check_with<AdamWProblem, T>([](AdamWArgs<T> args) {
    std::vector<AdamWSegment> segments;
    for (Index i = 0; i < args.segments.extent(0); ++i)
      segments.push_back({args.segments(i).offset, args.segments(i).elements, true});
    args.segments = {segments.data(), args.segments.shape()};
    adamw(Cpu{2}, args);
  })));
}
