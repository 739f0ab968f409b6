#include "frontend/plan/environment.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

using postern::plan::EnvironmentWish;
using postern::plan::evaluate_environment_file;
using postern::plan::payload_environment;
using Strings = std::vector<std::string>;

namespace {

auto from_host(std::vector<const char*> host, const EnvironmentWish& wish = {}) {
  host.push_back(nullptr);
  return payload_environment(wish, host.data());
}

struct TemporaryFile {
  explicit TemporaryFile(const std::string& content) {
    char name[] = "/tmp/postern-unit-XXXXXX";
    ::close(::mkstemp(name));
    path = name;
    std::ofstream(path) << content;
  }

  ~TemporaryFile() { ::unlink(path.c_str()); }

  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path;
};

}  // namespace

TEST_SUITE("frontend/plan environment") {
  TEST_CASE(
      "the host's variables are imported but for the runtime's, HOME, PATH and the loader's; names "
      "that are no identifiers pass") {
    const auto result = from_host(
        {"A=1", "MULTI=x\ny", "EMPTY=", "HOME=/h", "PATH=/p", "LD_LIBRARY_PATH=/l", "POSTERN_X=1",
         "APPTAINER_X=1", "SINGULARITY_X=1", "BASH_FUNC_f%%=() { :; }", "9x=1", "LD_PRELOAD=kept"});
    CHECK(result.imported == Strings{"A=1", "MULTI=x\ny", "EMPTY=", "BASH_FUNC_f%%=() { :; }",
                                     "9x=1", "LD_PRELOAD=kept"});
    CHECK(result.forwarded.empty());
  }

  TEST_CASE("--cleanenv lets only the terminal and proxies pass, and sets LANG") {
    const auto result = from_host({"A=1", "TERM=xterm", "https_proxy=p", "FTP_PROXY=q",
                                   "LANG=de_DE", "LC_ALL=x", "APPTAINERENV_B=2"},
                                  {.clean = true});
    CHECK(result.imported == Strings{"TERM=xterm", "https_proxy=p", "FTP_PROXY=q", "LANG=C"});
    CHECK(result.forwarded == Strings{"B=2"});
  }

  TEST_CASE("--no-env leaves names out") {
    CHECK(from_host({"A=1", "B=2", "AB=3"}, {.not_imported = {"A"}}).imported ==
          Strings{"B=2", "AB=3"});
  }

  TEST_CASE(
      "POSTERNENV_ beats APPTAINERENV_ beats SINGULARITYENV_; files beat all of them; --env beats "
      "files") {
    const char* p = "POSTERNENV_X=p";
    const char* a = "APPTAINERENV_X=a";
    const char* s = "SINGULARITYENV_X=s";
    CHECK(from_host({s, a, p}).forwarded == Strings{"X=p"});
    CHECK(from_host({p, a, s}).forwarded == Strings{"X=p"});
    CHECK(from_host({s, a}).forwarded == Strings{"X=a"});
    CHECK(from_host({s}).forwarded == Strings{"X=s"});
    CHECK(from_host({p}, {.from_files = {"X=f"}}).forwarded == Strings{"X=f"});
    CHECK(from_host({p}, {.set = {"X=e"}, .from_files = {"X=f", "X=g"}}).forwarded ==
          Strings{"X=e"});
    CHECK(from_host({}, {.from_files = {"X=f", "X=g"}}).forwarded == Strings{"X=g"});
  }

  TEST_CASE("changes to PATH are kept apart; PATH and LD_LIBRARY_PATH can be forwarded") {
    const auto result =
        from_host({"SINGULARITYENV_PREPEND_PATH=/first", "APPTAINERENV_APPEND_PATH=/last",
                   "POSTERNENV_PATH=/only", "POSTERNENV_LD_LIBRARY_PATH=/lib"});
    CHECK(result.prepend_path == "/first");
    CHECK(result.append_path == "/last");
    CHECK(result.forwarded == Strings{"PATH=/only", "LD_LIBRARY_PATH=/lib"});
  }

  TEST_CASE("what only the runtime sets is refused with a word") {
    const auto result =
        from_host({"APPTAINERENV_HOME=/x"}, {.set = {"APPTAINER_SHELL=/bin/x", "Y=1"}});
    CHECK(result.forwarded == Strings{"Y=1"});
    REQUIRE(result.warnings.size() == 2);
    CHECK(result.warnings[0].find("--home") != std::string::npos);
  }

  Strings variables_of(const TemporaryFile& file, const char* const* host) {
    auto variables = evaluate_environment_file(file.path, host);
    REQUIRE(variables);
    std::sort(variables->begin(), variables->end());
    return *variables;
  }

  TEST_CASE("an environment file: assignments, quotes, the caller's variables, several lines") {
    const TemporaryFile file(
        "# comment\nA=one\nB=\"$A two\"\nC='x\ny'\nexport D=\"${CALLER:-no}\" F=$'t\\t'\n"
        "if [ -n \"$A\" ]; then E=1; fi\nG=$((6*7))\nunset A\nCALLER=$CALLER\n");
    const std::array<const char*, 3> host = {"CALLER=mine", "OTHER=x", nullptr};
    CHECK(variables_of(file, host.data()) ==
          Strings{"B=one two", "C=x\ny", "CALLER=mine", "D=mine", "E=1", "F=t\t", "G=42"});
  }

  TEST_CASE("an environment file executes nothing, opens nothing and prints nothing") {
    for (const char* text : {"A=$(id)\n",
                             "A=`id`\n",
                             "id\n",
                             "/bin/id\n",
                             ". /etc/profile\n",
                             "source /etc/profile\n",
                             "A=1 >/tmp/x\n",
                             "A=$(</etc/passwd)\n",
                             "(A=1)\n",
                             "A=1 &\n",
                             "true | true\n",
                             "exec id\n",
                             "echo x\n",
                             "read A </etc/passwd\n",
                             "cd /\n",
                             "umask 0\n",
                             "ulimit -c 0\n",
                             "command id\n",
                             "eval id\n",
                             "eval 'A=$(id)'\n",
                             "f() { id; }; f\n",
                             "[ -f /etc/passwd ] && A=1\n",
                             "while :; do :; done\n",
                             "A=x; while :; do A=$A$A; done\n",
                             "f() { f; }; f\n",
                             "A=<(id)\n",
                             "cat <<E\nE\n",
                             "${X:=$(id)}\n",
                             "A=$((`id`))\n",
                             "case $(id) in *) ;; esac\n",
                             "type id\n"}) {
      CAPTURE(text);
      const TemporaryFile file(text);
      const std::array<const char*, 2> host = {"PATH=/usr/bin:/bin", nullptr};
      const auto variables = evaluate_environment_file(file.path, host.data());
      REQUIRE_FALSE(variables);
      CHECK(variables.error().what.find(file.path) != std::string::npos);
      CHECK_FALSE(variables.error().cure.empty());
    }
  }

  TEST_CASE("an environment file that is missing or wrong is an error that names it") {
    const auto missing = evaluate_environment_file("/nonexistent/file", nullptr);
    REQUIRE_FALSE(missing);
    CHECK(missing.error().what.find("/nonexistent/file") != std::string::npos);
    const TemporaryFile wrong("A='unclosed\n");
    CHECK_FALSE(evaluate_environment_file(wrong.path, nullptr));
  }
}
