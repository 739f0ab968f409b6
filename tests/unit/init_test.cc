#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/init/env_script.h"
#include "frontend/init/environment.h"
#include "frontend/init/payload.h"
#include "frontend/init/record.h"
#include "protocol/limits.h"

using std::string_view_literals::operator""sv;
using postern::init::Action;
using postern::init::decode;
using postern::init::encode;
using postern::init::Environment;
using postern::init::expand_value;
using postern::init::interpret;
using postern::init::LaunchRecord;

namespace {

LaunchRecord full_record() {
  LaunchRecord record;
  record.action = Action::kRun;
  record.argv = {"a", "", "b c"};
  record.environment = {"X=1", "Y=two\nlines"};
  record.forwarded = {"F=$X"};
  record.fixed = {"HOME=/h"};
  record.prepend_path = "/first";
  record.append_path = "/last";
  record.cwd = "/work";
  record.cwd_required = true;
  record.home = "/h";
  record.app = "app";
  record.shell = "/bin/zsh";
  record.umask = 077;
  record.no_eval = true;
  record.reaper = true;
  record.libs_bound = true;
  record.ignored_signals = 1ULL << 63;
  record.blocked_signals = 2;
  record.seccomp = {1, 2, 0, 255};
  record.message_level = -3;
  return record;
}

std::string described(const Environment& environment) {
  std::string text;
  for (const auto& one : environment.variables()) {
    if (one.exported) {
      text += one.name + "=" + one.value + "\n";
    }
  }
  return text;
}

// What a real shell makes of the script: the values of `names`, "unset" marked.
std::string by_shell(const char* shell,
                     std::string_view script,
                     const std::vector<std::string>& names) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  std::string text(script);
  text += "\nenv -0\n";
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(ends[1], 1);
    std::array<const char*, 3> environment = {"PATH=/usr/bin:/bin", "BASE=base", nullptr};
    ::execle(shell, "sh", "-c", text.c_str(), nullptr, environment.data());
    ::_exit(1);
  }
  ::close(ends[1]);
  std::string output;
  std::array<char, 4096> buffer;
  for (ssize_t got = 0; (got = ::read(ends[0], buffer.data(), buffer.size())) > 0;) {
    output.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  REQUIRE(status == 0);
  Environment environment;
  for (std::string_view rest = output; !rest.empty();) {
    environment.set(rest.substr(0, rest.find('\0')));
    rest.remove_prefix(rest.find('\0') + 1);
  }
  std::string result;
  for (const std::string& name : names) {
    const std::string* value = environment.find(name);
    result += name + (value != nullptr ? "=" + *value : " unset") + "\n";
  }
  return result;
}

std::string by_us(std::string_view script, const std::vector<std::string>& names) {
  Environment environment;
  environment.set("PATH", "/usr/bin:/bin");
  environment.set("BASE", "base");
  if (!interpret(script, environment)) {
    return "needs a shell";
  }
  environment.drop_unexported();
  std::string result;
  for (const std::string& name : names) {
    const std::string* value = environment.find(name);
    result += name + (value != nullptr ? "=" + *value : " unset") + "\n";
  }
  return result;
}

}  // namespace

TEST_SUITE("init/record") {
  TEST_CASE("a record survives its bytes") {
    const LaunchRecord record = full_record();
    const std::string bytes = encode(record);
    const auto back = decode(bytes);
    REQUIRE(back.has_value());
    CHECK(encode(*back) == bytes);
    CHECK(back->argv == record.argv);
    CHECK(back->environment == record.environment);
    CHECK(back->ignored_signals == record.ignored_signals);
    CHECK(back->seccomp == record.seccomp);
    CHECK(back->message_level == -3);
    CHECK(back->cwd_required);
  }

  TEST_CASE("a record cut anywhere is refused, and so is one with more behind it") {
    const std::string bytes = encode(full_record());
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      CAPTURE(length);
      CHECK_FALSE(decode(std::string_view(bytes).substr(0, length)).has_value());
    }
    CHECK_FALSE(decode(bytes + '\0').has_value());
  }

  TEST_CASE("any byte changed gives a record or a refusal, within the bounds") {
    const std::string bytes = encode(full_record());
    std::size_t accepted = 0;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      for (const char value : {'\x00', '\x01', '\x7f', '\x80', '\xff'}) {
        std::string changed = bytes;
        changed[at] = value;
        const auto record = decode(changed);
        if (record) {
          ++accepted;
          CHECK(encode(*record) == changed);
        }
      }
    }
    CHECK(accepted > 0);
  }

  TEST_CASE(
      "counts and lengths beyond the bytes, unknown actions and NULs inside texts are refused") {
    std::string huge = "PLR1\x01";
    huge += "\xff\xff\xff\xff"sv;
    CHECK_FALSE(decode(huge).has_value());
    LaunchRecord record = full_record();
    std::string bytes = encode(record);
    bytes[4] = '\x06';
    CHECK_FALSE(decode(bytes).has_value());
    record.argv = {std::string("a\0b", 3)};
    CHECK_FALSE(decode(encode(record)).has_value());
    record.argv = {std::string(postern::init::kMaxRecordBytes, 'x')};
    CHECK_FALSE(decode(encode(record)).has_value());
  }
}

TEST_SUITE("init/env_script") {
  TEST_CASE("what is interpreted natively means what it means to a shell") {
    const std::vector<std::string> names = {"A", "B", "C", "PATH", "BASE", "LD_LIBRARY_PATH"};
    const auto scripts = std::to_array<std::string_view>({
        "#!/bin/sh\n# comment \\\nexport A=\"a b\" B='c $d' # more\n",
        "export A=\"${A:-\"image value\"}\"\nexport B=\"${BASE:-\"unused\"}\"\n",
        "export A=\"${NOPE:-\"it's \\\"quoted\\\" \\$HOME \\\\ \\`x\\`\"}\"\n",
        "A=1\nexport A\nA=2\nB=3\nexport B C=4\n",
        "export PATH=/opt/bin:$PATH\nexport A=$BASE/x\n",
        "PATH=\"/p:${PATH}\"\nexport PATH\nunset BASE\n",
        "if [ -z \"$LD_LIBRARY_PATH\" ]; then\n  LD_LIBRARY_PATH=\"/l\"\nelse\n  "
        "LD_LIBRARY_PATH=\"$LD_LIBRARY_PATH:/l\"\nfi\nexport LD_LIBRARY_PATH\n",
        "if test -n \"${NOPE:-}\"; then\n  export A=yes\n  if [ -d \"/x\" ]; then\n    echo no\n  "
        "fi\nelse\n  export A=no\nfi\n",
        "if [ -d \"/tmp\" ]; then\nexport A=dir\nfi\nif [ -f \"/tmp\" ]; then\nexport "
        "B=file\nfi\nif [ -e /etc ]; then\nexport C=any\nfi\n",
        "export A=a\\ b\\$c B=\"x\\y\"\n",
        "export A=\"one \\\ntwo\"\n",
        "unset A \\\n  B \\\n  BASE\n",
        "export A=\"${BASE}${BASE:-x}$BASE-\"\n",
        "A=\"$NOPE\"\nexport A\n",
        "if [ -n \"x\" ]; then\nif [ -z \"x\" ]; then\nexport A=1\nelse\nexport "
        "A=2\nfi\nelse\nexport A=3\nfi\n",
    });
    for (const std::string_view script : scripts) {
      CAPTURE(script);
      const std::string ours = by_us(script, names);
      CHECK(ours != "needs a shell");
      CHECK(ours == by_shell("/bin/dash", script, names));
      CHECK(ours == by_shell("/bin/bash", script, names));
    }
  }

  TEST_CASE("whatever only a shell may interpret is left to it") {
    for (const std::string_view script : {"export A=$(id)\n"sv,
                                          "export A=`id`\n"sv,
                                          "A=b; export A\n"sv,
                                          "echo hello\n"sv,
                                          "export A=~\n"sv,
                                          "export A=*\n"sv,
                                          "export A=\"open\n"sv,
                                          "if true; then\nfi\n"sv,
                                          "if [ -z \"$A\" ]\nthen\nA=1\nfi\n"sv,
                                          "export\n"sv,
                                          "A=b cmd\n"sv,
                                          "IFS=:\n"sv,
                                          "export NOPE\n"sv,
                                          "set -e\n"sv,
                                          "export A=${A:=x}\n"sv,
                                          "export A=${A#x}\n"sv,
                                          "export A=$1\n"sv,
                                          "fi\n"sv,
                                          "else\n"sv,
                                          "if [ -z \"\" ]; then\nA=1\n"sv,
                                          ". relative\n"sv,
                                          ". /no/such/file\n"sv,
                                          "export 1A=b\n"sv,
                                          "A=b >/x\n"sv,
                                          "A=b | c\n"sv,
                                          "A=b & \n"sv,
                                          "if [ -z \"x\" ]; then\ncat <<E\nfi\nE\nfi\n"sv,
                                          "if [ -z \"x\" ]; then\nA=\"\nfi\n\"\nfi\n"sv,
                                          "if [ -z \"x\" ]; then\ncase a in a) ;; esac\nfi\n"sv,
                                          "if [ -z \"x\" ] || true; then\nA=1\nfi\n"sv,
                                          "A=(1 2)\n"sv,
                                          "export A=\"${A:-'x'}\"\n"sv,
                                          "umask 022\n"sv}) {
      CAPTURE(script);
      Environment environment;
      CHECK_FALSE(interpret(script, environment));
    }
    Environment environment;
    CHECK_FALSE(interpret("export A=b\0c\n"sv, environment));
    std::string deep = "export A=";
    for (int i = 0; i < 100; ++i) {
      deep += "\"${B:-";
    }
    CHECK_FALSE(interpret(deep, environment));
  }

  TEST_CASE("a value with a space is not split where a shell might") {
    Environment environment;
    environment.set("SPACED", "a b");
    CHECK_FALSE(interpret("export A=$SPACED\n", environment));
    CHECK(interpret("A=$SPACED\nexport B=\"$SPACED\"\n", environment));
    CHECK(*environment.find("A") == "a b");
    CHECK(described(environment) == "SPACED=a b\nB=a b\n");
  }

  TEST_CASE("forwarded values expand as inside double quotes") {
    Environment environment;
    environment.set("X", "value");
    CHECK(expand_value("$X:${X}:${NO:-other}", environment) == "value:value:other");
    CHECK(expand_value("\\$X \\\\ \\n \"q\"", environment) == "$X \\ \\n \"q\"");
    CHECK(expand_value("$NO", environment) == "");
    for (const std::string_view value :
         {"$(id)"sv, "`id`"sv, "${X%e}"sv, "$1"sv, "${X"sv, "a$"sv}) {
      CAPTURE(value);
      CHECK_FALSE(expand_value(value, environment).has_value());
    }
  }
}

TEST_SUITE("init/env_script") {
  using Words = std::vector<std::string>;

  TEST_CASE("the runscript that our builds write for ENTRYPOINT and CMD needs no shell") {
    const Environment none;
    const auto both =
        "#!/bin/sh\n# c\n[ $# -gt 0 ] || set -- 'd e' 'it'\\''s'\nexec '/entry' '-x' \"$@\"\n"sv;
    CHECK(postern::init::oci_command(both, {}, none, true) == Words{"/entry", "-x", "d e", "it's"});
    CHECK(postern::init::oci_command(both, {"a", "b"}, none, true) ==
          Words{"/entry", "-x", "a", "b"});
    const auto command = "#!/bin/sh\n[ $# -gt 0 ] || set -- '/c'\nexec \"$@\"\n"sv;
    CHECK(postern::init::oci_command(command, {}, none, true) == Words{"/c"});
    CHECK(postern::init::oci_command(command, {"/other"}, none, true) == Words{"/other"});
    CHECK(postern::init::oci_command("#!/bin/sh\nexec '/e' \"$@\"\n", {"1"}, none, true) ==
          Words{"/e", "1"});
  }

  TEST_CASE("a runscript that does anything else is executed as it is") {
    const Environment none;
    for (const std::string_view script :
         {"#!/bin/sh\necho hello\nexec 'x' \"$@\"\n"sv, "#!/bin/sh\nexec 'x' \"$@\"\necho more\n"sv,
          "#!/bin/bash\nexec 'x' \"$@\"\n"sv, "#!/bin/sh\nexec $X \"$@\"\n"sv,
          "#!/bin/sh\nexec x; y \"$@\"\n"sv, "#!/bin/sh\nexec 'x'\n"sv, "#!/bin/sh\n"sv,
          "#!/bin/sh\nexec x > y \"$@\"\n"sv, "#!/bin/sh\nexec \"$(id)\" \"$@\"\n"sv}) {
      CAPTURE(script);
      CHECK_FALSE(postern::init::oci_command(script, {}, none, true).has_value());
      CHECK_FALSE(postern::init::oci_command(script, {}, none, false).has_value());
    }
  }

  TEST_CASE("the form of other builds is understood where the image has no shell") {
    Environment environment;
    environment.set("V", "a b");
    const auto script =
        "#!/bin/sh\nOCI_ENTRYPOINT='\"/e\" \"$V\"'\nOCI_CMD='\"c\"'\n# prepare\nfor arg in \"$@\"; do x; done\n"sv;
    CHECK_FALSE(postern::init::oci_command(script, {}, environment, true).has_value());
    CHECK(postern::init::oci_command(script, {}, environment, false) == Words{"/e", "a b", "c"});
    CHECK(postern::init::oci_command(script, {"z"}, environment, false) == Words{"/e", "a b", "z"});
  }
}

TEST_SUITE("init/payload") {
  TEST_CASE(
      "a host variable comes back where the scripts left it alone, not where they set or emptied "
      "it") {
    LaunchRecord record;
    record.environment = {"KEPT=host", "SET=host", "EMPTIED=host", "NAME=host"};
    record.fixed = {"NAME=runtime", "PATH=/ignored"};
    Environment environment = postern::init::base_environment(record);
    CHECK(*environment.find("PATH") == "/ignored");
    environment.set("SET", "image");
    environment.set("EMPTIED", "");
    environment.set("NAME", "image");
    environment.set("PATH", "/image");
    postern::init::restore_host(environment, record);
    CHECK(*environment.find("KEPT") == "host");
    CHECK(*environment.find("SET") == "image");
    CHECK(environment.find("EMPTIED") == nullptr);
    CHECK(*environment.find("NAME") == "runtime");
    CHECK(*environment.find("PATH") == "/image");
  }

  TEST_CASE("forwarded values that need a shell are returned with all that follow") {
    LaunchRecord record;
    record.forwarded = {"A=plain", "B=$A/x", "C=$(id)", "D=$C", "E=plain"};
    Environment environment;
    const auto rest = postern::init::apply_forwarded(environment, record);
    CHECK(rest == std::vector<std::string>{"C=$(id)", "D=$C"});
    CHECK(*environment.find("B") == "plain/x");
    CHECK(*environment.find("E") == "plain");
    record.no_eval = true;
    CHECK(postern::init::apply_forwarded(environment, record).empty());
    CHECK(*environment.find("C") == "$(id)");
  }

  TEST_CASE(
      "search paths: additions around the image's, missing defaults at the end, libraries once") {
    LaunchRecord record;
    record.prepend_path = "/first";
    record.append_path = "/last";
    Environment environment;
    environment.set("PATH", "/image:/bin");
    environment.set("LD_LIBRARY_PATH", "/a:/.singularity.d/libs");
    environment.set("PREPEND_LD_LIBRARY_PATH", "/p");
    postern::init::finish_search_paths(environment, record);
    CHECK(*environment.find("PATH") ==
          "/first:/image:/bin:/last:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin");
    CHECK(*environment.find("LD_LIBRARY_PATH") == "/p:/a:/.singularity.d/libs");
    CHECK(environment.find("PREPEND_LD_LIBRARY_PATH") == nullptr);
  }
}
