#include <blackmamba/io/checkpoint.hpp>

#include <chrono>
#include <cmath>
#include <csignal>
#include <limits>
#include <set>
#include <thread>

#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <blackmamba/core/random.hpp>
#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/io/state_file.hpp>

#include "io/files.hpp"
#include "io/unprivileged.hpp"

using namespace blackmamba;

namespace {

/// What a run writes: weights that say their step in every element, a state, and a file in a folder below.
struct Contents {
  Index step, elements = 1000;

  void operator()(std::filesystem::path const& folder) const {
    Tensor<float, 1> weights{Shape<1>{elements}};
    for (float& x : weights) x = static_cast<float>(step);
    io::TensorToWrite const tensors[]{io::to_write("weights", weights.view())};
    io::write_safetensors(folder / "model.safetensors", tensors);
    std::filesystem::create_directory(folder / "below");
    io::write_state(folder / "below/state.json", {.integers = {{"step", step}}, .numbers = {}, .texts = {}});
  }
};

/// Whether a checkpoint holds all that `Contents` writes for its step.
bool complete(io::Checkpoint const& checkpoint, Index elements = 1000) {
  auto const weights = io::TensorFile::open(checkpoint.folder / "model.safetensors").read<float, 1>("weights");
  if (weights.size() != elements) return false;
  for (float const x : weights)
    if (x != static_cast<float>(checkpoint.step)) return false;
  return io::read_state(checkpoint.folder / "below/state.json").integer("step") == checkpoint.step;
}

std::vector<Index> steps(std::filesystem::path const& folder) {
  std::vector<Index> out;
  for (auto const& checkpoint : io::list_checkpoints(folder)) out.push_back(checkpoint.step);
  return out;
}

std::set<std::string> names(std::filesystem::path const& folder) {
  std::set<std::string> out;
  for (auto const& entry : std::filesystem::directory_iterator{folder}) out.insert(entry.path().filename().string());
  return out;
}

/// The message with which `f` fails; "done" if it does not.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (error const& e) {
    return e.what();
  }
  return "done";
}

}  // namespace

TEST_CASE("checkpoint: the last ones are kept, the newest is found, and a link leads to it") {
  test::Folder const folder;
  auto const out = folder / "made/when/needed";
  CHECK(io::list_checkpoints(out).empty());
  CHECK_FALSE(io::newest_checkpoint(out));
  io::CheckpointWriter writer{out, 3};
  CHECK_FALSE(io::newest_checkpoint(out));
  for (Index const step : {0, 5, 100, 99999999, 100000000}) {
    auto const path = writer.save(step, Contents{step});
    CHECK(path == io::newest_checkpoint(out)->folder);
    CHECK(std::filesystem::equivalent(path, out / "latest"));
    for (auto const& checkpoint : io::list_checkpoints(out)) CHECK(complete(checkpoint));
  }
  CHECK(names(out) == std::set<std::string>{"latest", "step-00000100", "step-99999999", "step-100000000"});
  CHECK(steps(out) == std::vector<Index>{100, 99999999, 100000000});
  CHECK(std::filesystem::read_symlink(out / "latest") == "step-100000000");
}

TEST_CASE("checkpoint: only folders with exactly the name of a step count, and the link is not asked") {
  test::Folder const folder;
  for (char const* name : {"step-00000007", "step-7", "step-000000008", "step-00000009.partial-12", "step--0000001",
                           "step-0000001x", "step-", "other", "step-99999999999999999999"})
    std::filesystem::create_directory(folder / name);
  folder.write("step-00000010", "a file");
  std::filesystem::create_symlink("step-00000004", folder / "latest");
  CHECK(steps(folder.path()) == std::vector<Index>{7});
  CHECK(io::newest_checkpoint(folder.path())->folder == folder / "step-00000007");
  CHECK(refusal([&] { io::list_checkpoints(folder / "step-00000010"); }) ==
        concat((folder / "step-00000010").string(), ": cannot be listed: Not a directory"));
}

TEST_CASE("checkpoint: what killed runs left is removed, and nothing else") {
  test::Folder const folder;
  for (char const* name : {"step-00000009.partial-12", "step-00000008.removed-7", "step-00000009.partial-", "step-9.partial-12",
                           "notes.partial-1", "step-00000007"}) {
    std::filesystem::create_directory(folder / name);
    folder.write(concat(name, "/file"), "x");
  }
  std::filesystem::create_symlink("step-00000009", folder / "latest.partial-12");
  io::CheckpointWriter const writer{folder.path()};
  CHECK(names(folder.path()) ==
        std::set<std::string>{"step-00000009.partial-", "step-9.partial-12", "notes.partial-1", "step-00000007"});
}

TEST_CASE("checkpoint: a failure while it is written leaves nothing of it, and those before as they were") {
  test::Folder const folder;
  io::CheckpointWriter writer{folder.path(), 1};
  writer.save(1, Contents{1});
  auto const before = names(folder.path());
  struct Stop {};
  CHECK_THROWS_AS(writer.save(2,
                              [](std::filesystem::path const& path) {
                                Contents{2}(path);
                                throw Stop{};
                              }),
                  Stop);
  CHECK(names(folder.path()) == before);
  for (Index const step : {0, 1})
    CHECK(refusal([&] { writer.save(step, Contents{step}); }) ==
          concat(folder.path().string(), ": holds a checkpoint of step 1, so one of step ", step, " would not be the newest"));
  CHECK(refusal([&] { writer.save(-1, Contents{1}); }) == "checkpoint: the step is -1, not at least 0");
  CHECK(names(folder.path()) == before);
  CHECK(complete(*io::newest_checkpoint(folder.path())));
  writer.save(2, Contents{2});
  CHECK(steps(folder.path()) == std::vector<Index>{2});
}

TEST_CASE("checkpoint: one writer a folder, until it is gone") {
  test::Folder const folder;
  {
    io::CheckpointWriter const first{folder.path()};
    CHECK(refusal([&] { io::CheckpointWriter{folder.path()}; }) ==
          concat(folder.path().string(), ": another run is writing its checkpoints here"));
  }
  CHECK(refusal([&] { io::CheckpointWriter{folder.path()}; }) == "done");
  CHECK(refusal([&] { io::CheckpointWriter(folder.path(), 0); }) == "checkpoint: 0 are to be kept, not at least 1");
}

TEST_CASE("checkpoint: a folder that cannot be written is named before anything is trained") {
  test::Folder const folder;
  test::open_to_all(folder.path());
  std::string const where = folder.path().string();
  {
    test::Unprivileged const nobody;
    CHECK(refusal([&] { io::CheckpointWriter{folder / "out"}; }) == concat(where, "/out: cannot be made: Permission denied"));
  }
  std::filesystem::create_directory(folder / "out");
  std::filesystem::permissions(folder / "out", std::filesystem::perms{0555});
  {
    test::Unprivileged const nobody;
    CHECK(refusal([&] { io::CheckpointWriter{folder / "out"}; }) == concat(where, "/out: cannot be written to: Permission denied"));
  }
  auto const file = folder.write("file", "x");
  CHECK_SAYS(refusal([&] { io::CheckpointWriter{file}; }), concat(file.string(), ": cannot be "));
  CHECK_SAYS(refusal([&] { io::CheckpointWriter{file / "out"}; }), concat(file.string(), "/out: cannot be made: "));
}

TEST_CASE("checkpoint: a folder that can no longer be written stops with its name and keeps the last one") {
  test::Folder const folder;
  auto const out = folder / "out";
  io::CheckpointWriter writer{out};
  writer.save(1, Contents{1});
  test::open_to_all(folder.path());
  std::filesystem::permissions(out, std::filesystem::perms{0555});
  std::string message;
  {
    test::Unprivileged const nobody;
    message = refusal([&] { writer.save(2, Contents{2}); });
  }
  std::filesystem::permissions(out, std::filesystem::perms{0755});
  CHECK(message == concat((out / concat("step-00000002.partial-", static_cast<Index>(::getpid()))).string(),
                          ": cannot be made: Permission denied"));
  CHECK(steps(out) == std::vector<Index>{1});
  CHECK(complete(*io::newest_checkpoint(out)));
}

TEST_CASE("checkpoint: a limit on files that is reached half-way, as on a full disk, keeps the last one") {
  test::Folder const folder;
  io::CheckpointWriter writer{folder.path(), 1};
  writer.save(1, Contents{1});
  auto const before = names(folder.path());
  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  auto const handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit const limit{.rlim_cur = 1 << 16, .rlim_max = old.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::string const message = refusal([&] { writer.save(2, Contents{2, 1 << 20}); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK_SAYS(message, "model.safetensors: cannot be written: File too large");
  CHECK(names(folder.path()) == before);
  CHECK(complete(*io::newest_checkpoint(folder.path())));
}

TEST_CASE("checkpoint: a disk that is full keeps the last one, and is usable again when there is room") {
  test::Folder const folder;
  auto const disk = folder / "disk";
  std::filesystem::create_directory(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=1m") != 0) {
    MESSAGE("not permitted to mount a small disk");
    return;
  }
  struct Unmount {
    std::filesystem::path const& disk;
    ~Unmount() { ::umount2(disk.c_str(), MNT_DETACH); }
  } const unmount{disk};
  auto const out = disk / "out";
  io::CheckpointWriter writer{out, 1};
  constexpr Index most_that_fit_once = 100'000;  // 400 kB
  writer.save(1, Contents{1, most_that_fit_once});
  std::string const message = refusal([&] { writer.save(2, Contents{2, 2 * most_that_fit_once}); });
  CHECK_SAYS(message, "No space left on device");
  CHECK_SAYS(message, out.string());
  CHECK(names(out) == std::set<std::string>{"latest", "step-00000001"});
  CHECK(complete(*io::newest_checkpoint(out), most_that_fit_once));
  writer.save(3, Contents{3, most_that_fit_once});
  CHECK(steps(out) == std::vector<Index>{3});
  CHECK(complete(*io::newest_checkpoint(out), most_that_fit_once));
}

TEST_CASE("checkpoint: a writer that is killed at any moment leaves complete checkpoints only, and the next one goes on") {
  test::Folder const folder;
  auto const out = folder / "out";
  constexpr int kills = 30;
  constexpr Index elements = 20'000;
  Random const random{1};
  auto const begin = std::chrono::steady_clock::now();
  io::CheckpointWriter{folder / "measured"}.save(0, Contents{0, elements});
  std::chrono::duration<double> const one_checkpoint = std::chrono::steady_clock::now() - begin;
  Index last = -1;
  int with_leftovers = 0;
  for (int kill = 0; kill < kills; ++kill) {
    pid_t const child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      // Goes on behind the newest one until it is killed.
      try {
        io::CheckpointWriter writer{out, 2};
        auto const newest = io::newest_checkpoint(out);
        for (Index step = newest ? newest->step + 1 : 0;; ++step) writer.save(step, Contents{step, elements});
      } catch (...) {
      }
      ::_exit(1);
    }
    // After it has completed none, one or two, and then at some moment of the next one.
    Index const wanted = last + kill % 3;
    auto const newest = [&] {
      auto const found = io::newest_checkpoint(out);
      return found ? found->step : Index{-1};
    };
    while (newest() < wanted && ::waitpid(child, nullptr, WNOHANG) == 0)
      std::this_thread::sleep_for(std::chrono::microseconds{200});
    std::this_thread::sleep_for(one_checkpoint * random.uniform(static_cast<std::uint64_t>(kill), 0, 1.5));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));  // killed, not stopped by a failure of its own

    auto const all = io::list_checkpoints(out);
    for (auto const& checkpoint : all) CHECK(complete(checkpoint, elements));
    // Killed between the arrival of a new one and the removal of the old, there is one more.
    CHECK(all.size() <= 3);
    if (last >= 0) REQUIRE_FALSE(all.empty());
    if (!all.empty()) {
      CHECK(all.back().step >= wanted);
      last = all.back().step;
    }
    if (std::filesystem::exists(out))
      for (auto const& name : names(out))
        with_leftovers += name.find(".partial-") != name.npos || name.find(".removed-") != name.npos;
  }
  CHECK(last >= kills - 1);
  // Kills fell within checkpoints.
  CHECK(with_leftovers > 0);
  io::CheckpointWriter const writer{out, 2};
  for (auto const& name : names(out)) CHECK((name == "latest" || name.size() == std::string_view{"step-00000000"}.size()));
}

TEST_CASE("state file: integers, numbers and texts come back bit for bit") {
  test::Folder const folder;
  io::StateFile state;
  state.integers = {{"zero", 0}, {"most", std::numeric_limits<Index>::max()}, {"least", std::numeric_limits<Index>::min()}};
  state.texts = {{"", "no name"},
                 {"quotes", "\"a\\\n\t\0b\""},
                 {"fa\xc3\xa7"
                  "ade",
                  "\xe2\x88\x91"}};
  using limits = std::numeric_limits<double>;
  std::vector<double> numbers{0.0,
                              -0.0,
                              1.0,
                              0.1,
                              -1e300,
                              limits::max(),
                              limits::min(),
                              limits::denorm_min(),
                              limits::infinity(),
                              -limits::infinity(),
                              limits::quiet_NaN(),
                              -limits::quiet_NaN(),
                              std::bit_cast<double>(0x7ff4000000000abcu)};
  Random const random{3};
  for (std::uint64_t i = 0; i < 2000; ++i) numbers.push_back(std::bit_cast<double>(random.bits(i)));
  for (std::size_t i = 0; i < numbers.size(); ++i) state.numbers[concat("x", static_cast<Index>(i))] = numbers[i];
  io::write_state(folder / "state.json", state);
  auto const back = io::read_state(folder / "state.json");
  CHECK(back.integers == state.integers);
  CHECK(back.texts == state.texts);
  REQUIRE(back.numbers.size() == numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i)
    CHECK(std::bit_cast<std::uint64_t>(back.number(concat("x", static_cast<Index>(i)))) ==
          std::bit_cast<std::uint64_t>(numbers[i]));
}

TEST_CASE("state file: what is missing, or is not what was written, is named") {
  test::Folder const folder;
  std::string const path = (folder / "s.json").string();
  auto const read = [&](std::string const& content) { return refusal([&] { io::read_state(folder.write("s.json", content)); }); };
  CHECK(read("{") == concat(path, " is not JSON: it stops making sense at byte 2 of 1"));
  CHECK(read("[]") == concat(path, ": has no object 'integers'"));
  CHECK(read(R"({"integers": {}, "numbers": 3})") == concat(path, ": has no object 'numbers'"));
  CHECK(read(R"({"integers": {"a": 1.5}, "numbers": {}, "texts": {}})") == concat(path, ": 'a' is 1.5, not an integer of 64 bits"));
  CHECK(read(R"({"integers": {"a": 9223372036854775808}, "numbers": {}, "texts": {}})") ==
        concat(path, ": 'a' is 9223372036854775808, not an integer of 64 bits"));
  CHECK(read(R"({"integers": {}, "numbers": {"a": "7ff"}, "texts": {}})") ==
        concat(path, ": 'a' is '7ff', not a number or 16 hexadecimal digits"));
  CHECK(read(R"({"integers": {}, "numbers": {}, "texts": {"a": null}})") == concat(path, ": 'a' is null, not a text"));
  CHECK(read(R"({"integers": {}, "numbers": {}, "texts": {}})") == "done");
  auto const state = io::read_state(path);
  CHECK(refusal([&] { state.integer("step"); }) == concat(path, ": has no integer 'step'"));
  CHECK(refusal([&] { state.number("loss"); }) == concat(path, ": has no number 'loss'"));
  CHECK(refusal([&] { state.text("router"); }) == concat(path, ": has no text 'router'"));
  CHECK(refusal([&] {
          io::write_state(folder / "t.json", {.integers = {}, .numbers = {}, .texts = {{"a", "\xff"}}});
        }) == concat("write_state: ", (folder / "t.json").string(), ": a name or a text is not UTF-8"));
  CHECK_FALSE(std::filesystem::exists(folder / "t.json"));
}
