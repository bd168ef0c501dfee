#include <blackmamba/train/schedule.hpp>

#include <doctest/doctest.h>

#include <cmath>

using namespace blackmamba;

namespace {

constexpr Schedule cosine{.kind = ScheduleKind::cosine, .peak = 2, .floor = 0.5, .warmup = 4, .steps = 104};
constexpr Schedule wsd{.kind = ScheduleKind::stable_decay, .peak = 2, .floor = 0.5, .warmup = 4, .steps = 104, .decay = 25};
constexpr Schedule constant{.kind = ScheduleKind::constant, .peak = 2, .warmup = 4};

}  // namespace

TEST_CASE("schedule: every kind warms up in equal steps from above 0 to the peak at step `warmup`") {
  for (Schedule const& s : {constant, cosine, wsd}) {
    check_schedule(s);
    for (Index n = 0; n <= 4; ++n) CHECK(s.at(n) == doctest::Approx(0.4 * static_cast<double>(n + 1)).epsilon(1e-15));
    CHECK(s.at(4) == 2);
  }
}

TEST_CASE("schedule: without warm-up the first step is at the peak") {
  for (Schedule s : {constant, cosine, wsd}) {
    s.warmup = 0;
    CHECK(s.at(0) == 2);
  }
}

TEST_CASE("schedule: a constant one stays, far past any number of steps") {
  CHECK(constant.at(5) == 2);
  CHECK(constant.at(Index{1} << 40) == 2);
}

TEST_CASE("schedule: a cosine is half way down in the middle, falls at every step, and ends at the floor for good") {
  CHECK(cosine.at(54) == doctest::Approx(1.25).epsilon(1e-15));
  for (Index n = 4; n < 104; ++n) CHECK(cosine.at(n + 1) < cosine.at(n));
  for (Index n = 0; n <= 50; ++n) CHECK(cosine.at(54 - n) + cosine.at(54 + n) == doctest::Approx(2.5).epsilon(1e-14));
  CHECK(cosine.at(103) > 0.5);
  CHECK(cosine.at(104) == 0.5);
  CHECK(cosine.at(1000) == 0.5);
}

TEST_CASE("schedule: warm-up-stable-decay holds the peak until its last steps, then falls by 1 - sqrt to the floor") {
  for (Index n = 4; n <= 79; ++n) CHECK(wsd.at(n) == 2);
  for (Index n = 79; n < 104; ++n) CHECK(wsd.at(n + 1) < wsd.at(n));
  // A fifth of the way down in steps² units: sqrt(1/25), sqrt(4/25), sqrt(9/25), sqrt(16/25).
  for (Index root : {1, 2, 3, 4}) {
    double const left = 1 - static_cast<double>(root) / 5;
    CHECK(wsd.at(79 + root * root) == doctest::Approx(0.5 + 1.5 * left).epsilon(1e-15));
  }
  CHECK(wsd.at(103) > 0.5);
  CHECK(wsd.at(104) == 0.5);
  CHECK(wsd.at(1000) == 0.5);
}

TEST_CASE("schedule: a decay of no steps drops to the floor after the last step, one of all steps follows the warm-up at once") {
  Schedule s = wsd;
  s.decay = 0;
  check_schedule(s);
  CHECK(s.at(103) == 2);
  CHECK(s.at(104) == 0.5);
  s.decay = 100;
  check_schedule(s);
  CHECK(s.at(4) == 2);
  CHECK(s.at(29) == doctest::Approx(1.25).epsilon(1e-15));
}

TEST_CASE("schedule: a run that is all warm-up, or has no steps, still has a rate at every step") {
  for (Schedule s : {cosine, wsd}) {
    s.decay = 0;
    s.steps = s.warmup = 3;
    check_schedule(s);
    CHECK(s.at(2) == doctest::Approx(1.5).epsilon(1e-15));
    CHECK(s.at(3) == 0.5);
    s.steps = s.warmup = 0;
    check_schedule(s);
    CHECK(s.at(0) == 0.5);
  }
}

TEST_CASE("schedule: names and kinds go back and forth, and an unknown name is refused with those there are") {
  CHECK(schedule_from_name("constant") == ScheduleKind::constant);
  CHECK(schedule_from_name("cosine") == ScheduleKind::cosine);
  CHECK(schedule_from_name("wsd") == ScheduleKind::stable_decay);
  for (auto const name : schedule_names()) CHECK(schedule_name(schedule_from_name(name)) == name);
  CHECK_THROWS_WITH_AS(schedule_from_name("linear"), "there is no schedule 'linear'; there are: constant, cosine, wsd",
                       value_error);
}

TEST_CASE("schedule: numbers that make no sense are refused with their values") {
  auto const refused = [](Schedule s, auto member, auto value, char const* message) {
    s.*member = value;
    CHECK_THROWS_WITH_AS(check_schedule(s), message, value_error);
  };
  refused(constant, &Schedule::peak, -1.0, "schedule: peak is -1, not a rate");
  refused(constant, &Schedule::peak, static_cast<double>(NAN), "schedule: peak is nan, not a rate");
  refused(constant, &Schedule::peak, HUGE_VAL, "schedule: peak is inf, not a rate");
  refused(cosine, &Schedule::floor, 3.0, "schedule: floor is 3, not in [0, 2]");
  refused(cosine, &Schedule::floor, -0.5, "schedule: floor is -0.5, not in [0, 2]");
  refused(constant, &Schedule::warmup, -1, "schedule: warmup is -1, not at least 0");
  refused(cosine, &Schedule::steps, 3, "schedule: steps is 3, fewer than the 4 of the warm-up");
  refused(wsd, &Schedule::decay, 101, "schedule: decay is 101, not in [0, 100], which the warm-up leaves of 104 steps");
  refused(wsd, &Schedule::decay, -1, "schedule: decay is -1, not in [0, 100], which the warm-up leaves of 104 steps");
  CHECK_THROWS_WITH_AS(cosine.at(-1), "schedule: step is -1, not at least 0", value_error);
}
