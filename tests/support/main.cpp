// The one main of all tests: linked into each of them, compiled once. A program that ran no test, say for want of a GPU,
// answers 77.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

namespace {

unsigned tests_run = 0;

struct Counter : doctest::IReporter {
  explicit Counter(doctest::ContextOptions const&) {}
  void test_run_end(doctest::TestRunStats const& all) override { tests_run = all.numTestCasesPassingFilters; }
  void report_query(doctest::QueryData const&) override {}
  void test_run_start() override {}
  void test_case_start(doctest::TestCaseData const&) override {}
  void test_case_reenter(doctest::TestCaseData const&) override {}
  void test_case_end(doctest::CurrentTestCaseStats const&) override {}
  void test_case_exception(doctest::TestCaseException const&) override {}
  void subcase_start(doctest::SubcaseSignature const&) override {}
  void subcase_end() override {}
  void log_assert(doctest::AssertData const&) override {}
  void log_message(doctest::MessageData const&) override {}
  void test_case_skipped(doctest::TestCaseData const&) override {}
};
REGISTER_LISTENER("counter", 1, Counter);

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context{argc, argv};
  int const status = context.run();
  if (context.shouldExit()) return status;  // asked for a list or for help
  return status == 0 && tests_run == 0 ? 77 : status;
}
