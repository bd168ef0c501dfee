#include <blackmamba/core/profile.hpp>
#include <blackmamba/ops/rms_norm/rms_norm.hpp>

#include <string>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

struct Recorder : ProfileListener {
  std::vector<std::string> events;
  Recorder() { set_profile_listener(this); }
  ~Recorder() override { set_profile_listener(nullptr); }
  void enter(char const* name) override { events.push_back("+" + std::string{name}); }
  void leave(char const* name) override { events.push_back("-" + std::string{name}); }
};

}  // namespace

TEST_CASE("profile: ranges nest, and end when their scope does, by an exception too") {
  Recorder recorder;
  try {
    ProfileRange const outer{"outer"};
    { ProfileRange const inner{"inner"}; }
    ProfileRange const second{"second"};
    throw 1;
  } catch (int) {
  }
  CHECK(recorder.events == std::vector<std::string>{"+outer", "+inner", "-inner", "+second", "-second", "-outer"});
}

TEST_CASE("profile: a range that nobody listened to when it began stays silent at its end") {
  auto range = std::make_unique<ProfileRange>("early");
  Recorder recorder;
  range.reset();
  CHECK(recorder.events.empty());
}

TEST_CASE("profile: an operation is a range of its own name") {
  Recorder recorder;
  Tensor<float, 2> x{Shape<2>{2, 3}}, y{Shape<2>{2, 3}};
  Tensor<float, 1> weight{Shape<1>{3}};
  rms_norm(Reference{}, RmsNormArgs<float>{.x = x, .weight = weight, .y = y});
  CHECK(recorder.events == std::vector<std::string>{"+rms_norm", "-rms_norm"});
}
