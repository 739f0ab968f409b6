// The shell interpreter, compared with bash itself.
#include "frontend/shell/shell.h"

#include <array>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

using postern::shell::Ended;
using postern::shell::Environment;
using postern::shell::expand_quoted;
using postern::shell::plain_words;
using postern::shell::Reach;
using postern::shell::Session;
using std::string_view_literals::operator""sv;

namespace {

// The scripts leave what they found in R, which both sides show.
std::string by_bash(std::string_view script) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const std::string text = std::string(script) + "\nprintf '%s' \"$R\"\n";
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(ends[1], 1);
    std::array<const char*, 5> environment = {"PATH=/usr/bin:/bin", "BASE=base", "HOME=/home/x",
                                              "SPACED=a  b", nullptr};
    ::execle("/bin/bash", "script", "-c", text.c_str(), "script", nullptr, environment.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  std::string output;
  std::array<char, 4096> buffer;
  for (ssize_t got = 0; (got = ::read(ends[0], buffer.data(), buffer.size())) > 0;) {
    output.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  ::waitpid(pid, nullptr, 0);
  return output;
}

Environment base() {
  Environment environment;
  environment.set("PATH=/usr/bin:/bin");
  environment.set("BASE=base");
  environment.set("HOME=/home/x");
  environment.set("SPACED=a  b");
  return environment;
}

std::string by_us(std::string_view script) {
  Session session(base(), Reach::kEverything);
  const auto run = session.run(script, "script");
  std::string messages;
  for (const std::string& one : run.messages) {
    messages += one + '\n';
  }
  INFO(messages);
  CHECK(run.ended != Ended::kSyntax);
  const Environment environment = session.environment();
  const std::string* const result = environment.find("R");
  return result != nullptr ? *result : std::string();
}

std::string times(std::string_view text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    out += text;
  }
  return out;
}

// As in the process of a start, but smaller still: what overflows ends the test.
void on_stack(std::size_t bytes, const std::function<void()>& work) {
  pthread_attr_t attributes;
  REQUIRE(::pthread_attr_init(&attributes) == 0);
  REQUIRE(::pthread_attr_setstacksize(&attributes, bytes) == 0);
  pthread_t thread{};
  const int made = ::pthread_create(
      &thread, &attributes,
      [](void* what) -> void* {
        (*static_cast<const std::function<void()>*>(what))();
        return nullptr;
      },
      const_cast<std::function<void()>*>(&work));
  ::pthread_attr_destroy(&attributes);
  REQUIRE(made == 0);
  ::pthread_join(thread, nullptr);
}

}  // namespace

TEST_SUITE("shell") {
  TEST_CASE("a script means what it means to bash") {
    const auto scripts = std::to_array<std::string_view>({
        // words and quotes
        "R='a b'\"c $BASE\"d\\ e",
        "R=\"it's \\\"q\\\" \\$X \\\\ \\n\"",
        "R=$'a\\tb\\x41\\101\\''",
        "R=$BASE/x:${BASE}y:$NOPE:",
        "R=~/a:~:'~'",
        "set -- $SPACED; R=$#-$1-$2",
        "set -- \"$SPACED\" ''; R=$#-$1-$2",
        "set -- a 'b c' d; R=; for i in \"$@\"; do R=\"$R<$i>\"; done",
        "set -- a 'b c' d; R=; for i in $*; do R=\"$R<$i>\"; done; R=\"$R$*\"",
        "set -- a b; IFS=:; R=\"$*\"",
        "A=1:2::3; IFS=:; set -- $A; R=$#$1$4",
        "R=a#b # comment",
        "R=one\\\ntwo",
        "R=; for i in {1..3} {a,b}x x{1,2}y; do R=$R$i,; done",
        // parameters
        "R=${NOPE:-d}${NOPE-e}${BASE:+f}${NOPE:+g}${BASE:-h}",
        "R=\"${NOPE:-\"q 'x'\"}${NOPE:-$BASE-${NOPE:-deep}}\"",
        ": ${A:=set}; R=$A",
        "A=/usr/lib/x.tar.gz; R=${A##*/}-${A#*/}-${A%.*}-${A%%.*}-${#A}",
        "A=a.b.c; R=${A//./_}-${A/./}-${A/#a/x}-${A/%c/y}",
        "A=hello; R=${A:1:3}-${A: -2}-${A^}-${A^^}-${A:1}",
        "A=HELLO; R=${A,}-${A,,}",
        "A=BASE; R=${!A}",
        "A='*'; B='x*y'; R=${B%\"$A\"*}-${B%%x*}",
        "A=(one 'two 2' three); R=${A[0]}-${A[1]}-${#A[@]}-${A[@]:1:2}; A+=(four); R=$R-${A[3]}",
        "A=(a b c); R=; for i in \"${A[@]}\"; do R=$R,$i; done; A[1]=z; R=\"$R ${A[*]}\"",
        "A=x; A+=y; R=$A",
        "false; R=$?; true; R=$R$?",
        // arithmetic
        "R=$((1+2*3))-$(( (1+2)*3 ))-$((7/2))-$((7%3))-$((2**10))-$((1<<4))-$((0x1f))-$((010))",
        "A=5; R=$((A+1))$((A>3?10:20))$((A==5&&1))$((!A))$((-A)); ((A++)); R=$R$A; ((A+=10)); "
        "R=$R-$A",
        "let A=3*4; R=$A; if (( A > 10 )); then R=$R-big; fi",
        // lists and conditions
        "true && R=a || R=b; false && R=$R-c || R=$R-d; ! false && R=$R-e",
        "if [ -z \"$NOPE\" ]; then R=yes; elif true; then R=2; else R=3; fi",
        "if [ -z \"$BASE\" ]\nthen R=1\nelif [ \"$BASE\" = base ]\nthen R=2\nfi",
        "[[ $BASE == b* && -n $BASE ]] && R=match; [[ $BASE == \"b*\" ]] || R=$R-literal",
        "[[ $BASE =~ ^(b.)s(e)$ ]] && R=${BASH_REMATCH[1]}${BASH_REMATCH[2]}",
        "[[ ( -d /tmp || -f /nope ) && ! -e /nope ]] && R=ok; [[ a < b ]] && R=$R-less; [[ 10 -gt "
        "9 ]] && R=$R-gt",
        "[[ -v BASE ]] && R=v; [[ -z ${NOPE-} ]] && R=$R-z; [[ $SPACED = 'a  b' ]] && R=$R-s",
        "[ 1 -lt 2 -a x = x ] && R=1; [ ! -f /nope ] && R=$R-2; test -d /etc -o -f /x && R=$R-3; [ "
        "a ] && R=$R-4",
        "case $BASE in x) R=1;; b*|c) R=2;; *) R=3;; esac",
        "case \"a b\" in 'a b') R=quoted;; esac; case x in [a-c]) R=no;; [x-z]) R=$R-range;; esac",
        "case a in a) R=1;& b) R=$R-2;; c) R=3;; esac",
        "R=; for i in a b c d; do [ $i = b ] && continue; [ $i = d ] && break; R=$R$i; done",
        "i=0; R=; while [ $i -lt 3 ]; do R=$R$i; i=$((i+1)); done; until [ $i = 0 ]; do "
        "i=$((i-1)); done; R=$R-$i",
        "R=; for ((i=0; i<3; i++)); do R=$R$i; done",
        "R=; for i in 1 2; do for j in a b; do [ $j = b ] && continue 2; R=$R$i$j; done; done",
        // functions
        "f() { local A=in; R=$A-$1-$#; return 3; }; A=out; f x y; R=$R-$?-$A",
        "function g { R=$R$1; }; R=; g a; g b",
        "f() { if [ $1 = 0 ]; then return; fi; R=$R$1; f $(($1-1)); }; R=; f 4",
        "f() { shift; R=\"$*\"; }; f a b c",
        // commands
        "R=$(echo hello; echo world)",
        "R=`echo a \\`echo b\\``",
        "R=\"$(printf '%s-%03d-%x|' a 7 255 b 8 16)\"",
        "R=$(echo one two | tr a-z A-Z | cut -d' ' -f2)",
        "R=$(cat <<E\nbase is $BASE\n  \\$x\nE\n)",
        "R=$(cat <<'E'\nbase is $BASE\nE\n)",
        "R=$(cat <<< \"$SPACED\")",
        "R=$( (echo sub; exit 3) ); R=$R-$?",
        "read A B <<< 'x y z'; R=$A-$B",
        "R=$(for i in 1 2; do echo $i; done | while read -r l; do echo \"<$l>\"; done)",
        "echo x > /dev/null 2>&1 && R=redirected; nosuch-command 2>/dev/null || R=$R-failed",
        "A=1 B=2 true; R=[$A$B]; A=x eval 'R=$R$A'",
        "eval \"A='quoted value'\"; R=$A",
        "R=$(A=in; echo $A)$A",
        "unset BASE; R=${BASE-unset}; readonly Q=1; R=$R-$Q",
        "command -v true >/dev/null && R=yes; command -v nosuch >/dev/null || R=$R-no; type cat "
        ">/dev/null && R=$R-t",
        "R=$(umask 027; umask)",
        "printf -v A '%s+' x y; R=$A",
        "R=$(set -e; false; echo no)done",
        "R=$(set -u; echo ${NOPE} 2>/dev/null; echo no)done",
        "R=$(echo -n a; echo -e 'b\\tc')",
        "{ A=group; R=$A; }; (R=lost); R=$R-kept",
        "R=\"a\nb\"; R=${R//$'\\n'/,}",
        "export A=1 C; C=2; R=$(env | grep -c '^[AC]=')",
        "declare -x D=d; R=$(env | grep ^D=)",
        "R=x; [ -n \"$R\" ] &&\nR=continued",
        "if true; then :; fi; R=\"$(if [ 1 = 1 ]; then echo in; fi)\"",
        "PATH=$PATH:/added; R=${PATH##*:}",
        "_f() { echo \"$1\"; }; R=\"$(_f \"a  b\")\"",
        "R=$(exec 3>&1; echo three >&3)",
        "set -a; E1=x; set +a; R=$(env | grep ^E1=)",
        "R=; false && R=${R}a || R=${R}b; true || R=${R}c && R=${R}d; false || false && R=${R}e || "
        "R=${R}f",
        "R=; [[ a == b && a == a || c == c ]] && R=${R}a; [[ a == a || x == y && y == z ]] && "
        "R=${R}b",
        "R=; (set -e; false && true || true; true && false || R=x; echo on) >/dev/null && R=${R}a",
    });
    for (const std::string_view script : scripts) {
      CAPTURE(script);
      CHECK(by_us(script) == by_bash(script));
    }
  }

  TEST_CASE("a script that fails ends, and what it set stays") {
    Session session(base(), Reach::kEverything);
    CHECK(session.run("A=1\nreadonly A\nA=2\nB=not\n", "one").ended == Ended::kDone);
    CHECK(session.run("set -e\nC=3\nfalse\nD=not\n", "two").ended == Ended::kDone);
    CHECK(session.run("E=5\n${NOPE?gone}\nF=not\n", "three").ended == Ended::kDone);
    const auto wrong = session.run("G=7\nif true; then\n", "four");
    CHECK(wrong.ended == Ended::kSyntax);
    REQUIRE(wrong.messages.size() == 1);
    CHECK(session.run("false\nH=8\n", "five").ended == Ended::kDone);
    const Environment environment = session.environment();
    CHECK(*environment.find("A") == "1");
    CHECK(*environment.find("C") == "3");
    CHECK(*environment.find("E") == "5");
    CHECK(*environment.find("H") == "8");
    for (const char* name : {"B", "D", "F", "G"}) {
      CHECK(environment.find(name) == nullptr);
    }
    const auto left = session.run("exit 3\nI=9\n", "six");
    CHECK(left.ended == Ended::kExit);
    CHECK(left.status == 3);
  }

  TEST_CASE("malformed scripts are said to be so, whatever they hold") {
    for (const std::string_view script : {"if"sv,        "if true; then"sv,
                                          "fi"sv,        "'"sv,
                                          "\""sv,        "$("sv,
                                          "${"sv,        "${A"sv,
                                          "`"sv,         "((1+"sv,
                                          "[[ a"sv,      "for"sv,
                                          "case x in"sv, "f() {"sv,
                                          "(a"sv,        "a)"sv,
                                          "a | "sv,      "a &&"sv,
                                          "<"sv,         ";;"sv,
                                          "a\0b"sv,      "$((1+)) $("sv,
                                          "[[ ]]"sv}) {
      CAPTURE(script);
      Session session(base(), Reach::kEverything);
      CHECK(session.run(script, "x").ended == Ended::kSyntax);
    }
    for (const char* open :
         {"(", "{ ", "$(", "${A:-", "if true; then ", "\"$(", "[[ ( ", "$((", "a=("}) {
      std::string deep;
      for (int i = 0; i < 20000; ++i) {
        deep += open;
      }
      Session session(base(), Reach::kVariables);
      CHECK(session.run(deep, "x").ended != Ended::kDone);
    }
  }

  TEST_CASE("a start's small stack is enough, however a script is nested or joined") {
    constexpr std::size_t kMany = 20000;
    const std::vector<std::string> scripts = {
        "x=$((1" + times("**1", kMany) + "))",
        "x=$((" + times("(", kMany) + "1" + times(")", kMany) + "))",
        "if [ " + times("! ", kMany) + "a ]; then :; fi",
        "if [ " + times("\\( ", kMany) + "a " + times("\\) ", kMany) + "]; then :; fi",
        "if [[ a " + times("&& a ", kMany) + "]]; then :; fi",
        "if [[ " + times("( ", kMany) + "a" + times(" )", kMany) + " ]]; then :; fi",
        ":" + times(" && :", kMany),
        "false" + times(" || false", kMany),
        times("{ ", kMany) + ":" + times("; }", kMany),
        "[[ aaaa =~ " + times("(", kMany) + "a" + times(")", kMany) + " ]]",
        "for f in " + times("/*", 3000) + "; do :; done",
        "for f in " + times("/[a-z]", 100) + "; do :; done",
        "p='" + times("@(", 2000) + "a" + times(")", 2000) + "'; [[ a == $p ]]",
        "p='" + times("@(a" + times("|b", 3000), 20) + times(")", 20) + "'; [[ a == $p ]]",
        "f() { f; }; f",
        "x='eval \"$x\"'; eval \"$x\"",
        "x=" + times("${x:-", kMany) + times("}", kMany),
    };
    for (const std::string& script : scripts) {
      on_stack(256 * 1024, [&] {
        for (const Reach reach : {Reach::kVariables, Reach::kFiles}) {
          (void)Session(base(), reach).run(script, "script");
        }
      });
    }
    CHECK(by_us(":" + times(" && :", 200) + " && R=reached") == "reached");
    CHECK(by_us("[[ a " + times("&& a ", 200) + "]] && R=reached") == "reached");
  }

  TEST_CASE("text between double quotes, and plain words") {
    Environment environment = base();
    CHECK(expand_quoted("$BASE:${NO:-other} \"q\" \\$X \\\\ \\n", environment, Reach::kVariables) ==
          "base:other \"q\" $X \\ \\n");
    CHECK_FALSE(expand_quoted("$(id)", environment, Reach::kFiles));
    CHECK(expand_quoted("$(echo a)", environment, Reach::kEverything) == "a");
    CHECK_FALSE(expand_quoted("${A", environment, Reach::kEverything));
    CHECK(plain_words("a 'b c' \"$BASE\"", environment) ==
          std::vector<std::string>{"a", "b c", "base"});
    CHECK(plain_words("", environment) == std::vector<std::string>{});
    for (const char* line :
         {"a; b", "a > b", "$BASE", "a | b", "a*", "A=b", "a &", "\"$(id)\"", "if a"}) {
      CAPTURE(line);
      CHECK_FALSE(plain_words(line, environment).has_value());
    }
  }
}
