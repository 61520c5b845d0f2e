@echo off
rem The twin of launch_distributed.sh for Windows: same verbs, same flags. It keeps CRLF line ends.
rem Without a verb (double click) it asks what to start and leaves the window open.
rem No blocks in parentheses: this folder's name may hold some. Paths count from where the user types.
setlocal EnableExtensions DisableDelayedExpansion
set "HERE=%~dp0"
set "ASKED="
set "NEEDS="
set WORDS=%*
if not defined WORDS goto menu
if /i "%~1"=="--cuda" set "NEEDS=--cuda"
if defined NEEDS set WORDS=%WORDS:*--cuda=%
if defined NEEDS if not defined WORDS goto menu
if defined NEEDS goto environment
if /i "%~1"=="help" goto help
if /i "%~1"=="-h" goto help
if /i "%~1"=="--help" goto help
if /i "%~1"=="/?" goto help
if /i "%~1"=="test" set "NEEDS=--dev"

:environment
if not defined DISTEXP_PYTHON goto own
set "PYTHON=%DISTEXP_PYTHON%"
goto launch

:own
set "PYTHON=%HERE%.venv\Scripts\python.exe"
set STARTER="%HERE%.venv\Scripts\python.exe"
if not exist "%PYTHON%" goto search
"%PYTHON%" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>nul
if not errorlevel 1 goto install
:search
rem `call`, because some installers put a python.bat on the PATH
set "STARTER=py -3"
call py -3 -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 goto install
set "STARTER=python"
call python -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 goto install
set "STARTER=python3"
call python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>nul
if not errorlevel 1 goto install
set "FOUND=no Python"
for /f "delims=" %%V in ('python --version 2^>nul') do set "FOUND=%%V"
>&2 echo launch_distributed.bat: needs Python 3.11 or later (here: %FOUND%^). Install one, or set DISTEXP_PYTHON to its path
set "CODE=2"
goto end

:install
pushd "%HERE%"
call %STARTER% -m distexp.launcher.bootstrap %NEEDS%
set "CODE=%ERRORLEVEL%"
popd
if not "%CODE%"=="0" goto end

:launch
set "DISTEXP_COMMAND=launch_distributed.bat"
"%PYTHON%" "%HERE%experiment_manager.py" %WORDS%
set "CODE=%ERRORLEVEL%"
goto end

:menu
set "ASKED=yes"
set "CHOICE="
echo   1  run: the whole sweep, a manager and its workers
echo   2  manager
echo   3  workers
echo   4  report: an HTML file with charts
set /p "CHOICE=What shall start? "
if "%CHOICE%"=="1" set "WORDS=run"
if "%CHOICE%"=="2" set "WORDS=manager"
if "%CHOICE%"=="4" set "WORDS=report"
if defined WORDS goto environment
if not "%CHOICE%"=="3" goto unknown
set "COUNT=1"
set /p "COUNT=How many workers? [1] "
set "WORDS=workers %COUNT%"
goto environment

:unknown
>&2 echo launch_distributed.bat: choose 1, 2, 3 or 4
set "CODE=2"
goto end

:help
echo Usage: launch_distributed.bat VERB [flags]       `launch_distributed.bat VERB --help` shows the flags
echo(
echo   run       the whole sweep: a manager and one worker per free GPU (none free: two CPU workers)
echo   manager   the manager alone                     worker    one worker
echo   workers   N workers: workers 3                  slurm     N workers as jobs of Slurm: slurm 8
echo   stop      end the manager at once: Windows cannot send Ctrl+C to another window; no row is lost
echo   status    how far is it?                        watch     the live view
echo   tasks     list tasks                            show      one task, and why it is not running
echo   logs      what a task has printed               plan      what would run, and for how long
echo   report    an HTML file with charts              web       the live page, in a browser
echo   init      a first sweep of your own
echo   cancel  requeue  pause  resume  drain  prioritize   steer a running sweep
echo   convert   a W&B sweep file as one of ours       test      format, lint, types, tests
echo   rerun     one task again, in the foreground     help      this text
echo(
echo The first start makes .venv beside this file and installs requirements.txt. DISTEXP_PYTHON=C:\path\to\python.exe
echo uses that Python as it is and installs nothing. Paths count from where you type.
echo Where nvidia-smi works, it offers the CUDA build of torch; `launch_distributed.bat --cuda VERB` takes it unasked.
set "CODE=0"

:end
if defined ASKED pause
exit /b %CODE%
