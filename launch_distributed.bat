@echo off
rem The twin of launch_distributed.sh for Windows: same verbs, same flags. It keeps CRLF line ends.
rem Without a verb (double click) it asks what to start and leaves the window open.
rem No blocks in parentheses: this folder's name may hold some.
setlocal EnableExtensions DisableDelayedExpansion
pushd "%~dp0"
set "ASKED="
set "NEEDS="
set WORDS=%*
if not defined WORDS goto menu
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
set "PYTHON=.venv\Scripts\python.exe"
set "STARTER=.venv\Scripts\python.exe"
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
>&2 echo launch_distributed.bat: needs Python ^>= 3.11, and found %FOUND%
set "CODE=2"
goto end

:install
call %STARTER% -m distexp.launcher.bootstrap %NEEDS%
set "CODE=%ERRORLEVEL%"
if not "%CODE%"=="0" goto end

:launch
"%PYTHON%" -m distexp.launcher.main %WORDS%
set "CODE=%ERRORLEVEL%"
goto end

:menu
set "ASKED=yes"
set "CHOICE="
echo   1  manager
echo   2  workers
set /p "CHOICE=What shall start? "
if "%CHOICE%"=="1" set "WORDS=manager"
if "%CHOICE%"=="1" goto environment
if not "%CHOICE%"=="2" goto unknown
set "COUNT=1"
set /p "COUNT=How many workers? [1] "
set "WORDS=workers %COUNT%"
goto environment

:unknown
>&2 echo launch_distributed.bat: choose 1 or 2
set "CODE=2"
goto end

:help
echo Usage: launch_distributed.bat VERB [words for the script behind the verb]
echo(
echo   run         the whole sweep: a manager and one worker per free GPU (none free: two CPU workers)
echo               [--workers N] [--device auto^|gpu^|cpu] [--gpus N] [--workdir DIR] [flags of experiment_manager.py]
echo   manager     the manager alone              [flags of experiment_manager.py]
echo   worker      one worker                     [host] [port] [flags of experiment_runner_gpu.py]
echo   workers N   N workers                      [host] [port] [flags of experiment_runner_gpu.py]
echo   slurm N     N workers as jobs of Slurm     [flags of experiment_runner_gpu.py] [-- options of sbatch]
echo   status      what a running manager says    [host] [port]
echo   stop        end the manager at once: Windows cannot send Ctrl+C to another window; no row is lost
echo               [--workdir DIR]
echo   test        format, lint, types, tests     [words for pytest]
echo   help        this text
echo(
echo The first start makes .venv here and installs requirements.txt. DISTEXP_PYTHON=C:\path\to\python.exe uses that
echo Python as it is and installs nothing. Relative paths count from this folder.
set "CODE=0"

:end
popd
if defined ASKED pause
exit /b %CODE%
